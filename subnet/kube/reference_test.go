package kube

import (
	"testing"

	"github.com/weftnet/weft/test/reference"
)

func TestReference(t *testing.T) {
	k, err := newKeys(defaultPrefix)
	if err != nil {
		t.Fatal(err)
	}
	rows := [][]string{
		{reference.Code(k.managed), "weftd", "`true`: this Node has a lease"},
		{reference.Code(k.backend), "weftd", "the backend's type"},
	}
	names := map[int]string{32: "IPv4", 128: "IPv6"}
	for _, f := range k.families {
		rows = append(
			rows,
			[]string{reference.Code(f.data), "weftd", names[f.width] + ": the backend's data, in JSON"},
			[]string{reference.Code(f.public), "weftd", names[f.width] + ": the address at which peers reach the node"},
			[]string{reference.Code(f.overwrite), "you", names[f.width] + ": announce this one, which need not be the node's"},
			[]string{reference.Code(f.local), "you", names[f.width] + ": the same as `--public-ip` or `--public-ipv6`"},
		)
	}
	if len(rows) != len(k.all()) {
		t.Errorf("%d annotations are described, %d are read", len(rows), len(k.all()))
	}
	heads := []string{"annotation", "written by", "meaning"}
	reference.Block(t, "reference.md", "annotations", reference.Table(heads, rows))
}
