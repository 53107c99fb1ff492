package subnet

import (
	"fmt"
	"slices"
	"testing"

	"github.com/weftnet/weft/test/reference"
)

func TestReference(t *testing.T) {
	type row = []string
	rows := []row{
		{"`Backend`", "object", "`{\"Type\":\"" + defaultBackend + "\"}`", ""},
		{"`EnableNFTables`", "boolean", "", "absent: each node chooses"},
	}
	for _, f := range families() {
		rows = append(
			rows,
			row{reference.Code(f.enable), "boolean", reference.Code(fmt.Sprint(f.on)), ""},
			row{reference.Code(f.network), f.name + " CIDR", "", "such as " + reference.Code(f.example)},
			row{
				reference.Code(f.length), "number", reference.Code(fmt.Sprint(f.usual)),
				fmt.Sprintf("to %d; what a smaller network has instead is [there](configuration.md#the-network)", f.longest),
			},
			row{reference.Code(f.min), f.name + " address", "", "the network address of a subnet"},
			row{reference.Code(f.max), f.name + " address", "", "the network address of a subnet"},
		)
	}
	keys := configKeys()
	for i := range rows {
		key := rows[i][0]
		if !slices.Contains(keys, key[1:len(key)-1]) {
			t.Errorf("%s is no key", key)
		}
	}
	if len(rows) != len(keys) {
		t.Errorf("%d keys are described, %d are known", len(rows), len(keys))
	}
	slices.SortFunc(rows, func(a, b row) int { return slices.Compare(a, b) })
	reference.Block(t, "reference.md", "network configuration",
		reference.Table([]string{"key", "type", "default", ""}, rows))
}
