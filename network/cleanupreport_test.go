package network

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestElementsAreSummedUp(t *testing.T) {
	have := summed([]CleanupItem{
		{"element", "ip weft vteps { 192.0.2.1 . 192.0.2.1 }", ""},
		{"link", "flannel.1", "with 2 FDB entries"},
		{"element", "ip weft inner24 { 192.0.2.1 . 10.42.1.0 }", "operation not permitted"},
		{"element", "ip weft vteps { 192.0.2.2 . 192.0.2.2 }", ""},
	})
	want := []CleanupItem{
		{"link", "flannel.1", "with 2 FDB entries"},
		{"set", "ip weft inner24", "1 elements: operation not permitted"},
		{"set", "ip weft vteps", "2 elements"},
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
	if none := summed(nil); none != nil {
		t.Errorf("of nothing: %v", none)
	}
}
