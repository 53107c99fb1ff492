package nft_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment/nft"
	"github.com/weftnet/weft/pkg/netnstest"
)

// More elements than one attribute can have are all written, or none; and a refusal
// is told for what it is. What else a batch writes is compared in package guard with what
// google/nftables makes of it.
func TestBatch(t *testing.T) {
	const many = 5000
	host := netnstest.New(t)
	table := &nftables.Table{Name: "batch", Family: nftables.TableFamilyINet}
	all := &nftables.Set{
		Name: "map", Table: table, IsMap: true, KeyType: nftables.TypeInteger, DataType: nftables.TypeInteger,
	}
	elements := func(value uint32) (out []nftables.SetElement) {
		for i := range uint32(many) {
			out = append(out, nftables.SetElement{
				Key: binary.BigEndian.AppendUint32(nil, i), Val: binary.BigEndian.AppendUint32(nil, i+value),
			})
		}
		return out
	}
	host.Do(func() {
		put := func(set string, value uint32) error {
			b := nft.NewBatch(table)
			b.AddElements(set, elements(value))
			return b.Commit()
		}
		if err := put("map", 0); !errors.Is(err, unix.ENOENT) {
			t.Errorf("no table: %v", err)
		}
		c, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		c.AddTable(table)
		if err := errors.Join(c.AddSet(all, nil), c.Flush()); err != nil {
			t.Fatal(err)
		}
		for range 2 { // what is there is no error
			if err := put("map", 1); err != nil {
				t.Error(err)
			}
		}
		if err := put("map", 2); !errors.Is(err, unix.EEXIST) {
			t.Errorf("other values: %v", err)
		}
		have, err := nft.Elements(all)
		if len(have) != many || err != nil {
			t.Errorf("%d elements, %v", len(have), err)
		}
		for _, e := range have {
			if binary.BigEndian.Uint32(e.Val) != binary.BigEndian.Uint32(e.Key)+1 {
				t.Fatalf("%x has %x", e.Key, e.Val)
			}
		}
		b := nft.NewBatch(table)
		b.AddRule(&nftables.Rule{Chain: &nftables.Chain{Name: "c"}, Exprs: []expr.Any{&expr.Masq{}}})
		if err := b.Commit(); err == nil {
			t.Error("an expression that can't be encoded is none")
		}
	})
}
