package jsonout_test

import (
	"encoding/json"
	"testing"

	"github.com/weftnet/weft/pkg/jsonout"
)

func TestObject(t *testing.T) {
	var o jsonout.Object
	if have := string(o.Bytes()); have != `{}` {
		t.Errorf("empty: %s", have)
	}
	o.Text("name", `a "b"`)
	half := string(o.Bytes())
	o.Number("mtu", 1450)
	o.True("hairpin")
	o.Raw("addresses", jsonout.List([]string{"10.42.1.5", "fd00::5"}, jsonout.String))
	o.Raw("none", jsonout.List(nil, jsonout.String))
	if want := `{"name":"a \"b\""}`; half != want {
		t.Errorf("want %s, have %s", want, half)
	}
	want := `{"name":"a \"b\"","mtu":1450,"hairpin":true,"addresses":["10.42.1.5","fd00::5"],"none":[]}`
	if have := string(o.Bytes()); have != want {
		t.Errorf("want %s\nhave %s", want, have)
	}
}

// Every string is read as what encoding/json makes of it.
func FuzzString(f *testing.F) {
	for _, s := range []string{
		"", "eth0", "/run/netns/cni-1", "\"\\/\b\t\n\x00\x1f\x7f", "für 世界 \u2028", "\xff\xfe", "<&>",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		reference, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var want, have string
		if err := json.Unmarshal(reference, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(jsonout.String(s), &have); err != nil {
			t.Fatalf("%s: %v", jsonout.String(s), err)
		}
		if have != want {
			t.Errorf("want %q, have %q", want, have)
		}
	})
}
