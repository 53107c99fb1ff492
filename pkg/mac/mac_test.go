package mac_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/mac"
)

func TestParse(t *testing.T) {
	want := mac.Addr{0x2e, 0x13, 0xb9, 0x65, 0x3e, 0x03}
	for _, s := range []string{"2e:13:b9:65:3e:03", "2E-13-B9-65-3E-03"} {
		if have, err := mac.Parse(s); err != nil || have != want {
			t.Errorf("%s: %v, %v", s, have, err)
		}
	}
	for _, s := range []string{
		"", "2e:13:b9:65:3e", "2e:13:b9:65:3e:03:00:01", "2e:13:b9:65:3e:0g", " 2e:13:b9:65:3e:03",
		"00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01",
	} {
		if have, err := mac.Parse(s); err == nil || have != (mac.Addr{}) {
			t.Errorf("%q is taken as %v", s, have)
		}
	}
}

func TestFromBytes(t *testing.T) {
	six := []byte{2, 0, 0, 0, 0, 1}
	if have := mac.FromBytes(six); have != (mac.Addr{2, 0, 0, 0, 0, 1}) {
		t.Errorf("six bytes: %v", have)
	}
	for _, b := range [][]byte{nil, six[:5], append(six, 0, 0)} {
		if have := mac.FromBytes(b); !have.IsZero() {
			t.Errorf("%d bytes: %v", len(b), have)
		}
	}
}

func TestLocal(t *testing.T) {
	for first := range 256 {
		have := mac.Local([6]byte{byte(first), 1, 2, 3, 4, 5})
		if !have.IsUnicast() || have[0]&2 == 0 || have[0]&^3 != byte(first)&^3 || have[5] != 5 {
			t.Errorf("first byte %02x: %v", first, have)
		}
	}
}

func TestIsUnicast(t *testing.T) {
	for s, want := range map[string]bool{
		"2e:13:b9:65:3e:03": true, "00:00:00:00:00:01": true, "00:00:00:00:00:00": false,
		"01:00:5e:00:00:01": false, "33:33:00:00:00:01": false, "ff:ff:ff:ff:ff:ff": false,
	} {
		if a, err := mac.Parse(s); err != nil || a.IsUnicast() != want {
			t.Errorf("%s: %v, %v", s, a.IsUnicast(), err)
		}
	}
}

func TestText(t *testing.T) {
	a := mac.Addr{0x0a, 0xbc, 0, 0, 0, 1}
	if d := cmp.Diff("0a:bc:00:00:00:01", a.String()) + cmp.Diff(a.String(), a.Hardware().String()); d != "" {
		t.Error(d)
	}
	if s := (mac.Addr{}).String(); s != "" {
		t.Errorf("the zero address is %q", s)
	}
	for raw, want := range map[string]mac.Addr{`"0a:bc:00:00:00:01"`: a, `""`: {}} {
		have := mac.Addr{9}
		if err := json.Unmarshal([]byte(raw), &have); err != nil || have != want {
			t.Errorf("%s: %v, %v", raw, have, err)
		}
		if out, err := json.Marshal(have); err != nil || string(out) != raw {
			t.Errorf("%s is written as %s, %v", raw, out, err)
		}
	}
	kept := a
	if err := json.Unmarshal([]byte(`"nonsense"`), &kept); err == nil || kept != a {
		t.Errorf("nonsense: %v, %v", kept, err)
	}
}

// What is read is written and read again as the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"2e:13:b9:65:3e:03", "2E-13-B9-65-3E-03", "2e13.b965.3e03", "00:00:00:00:00:00", "", "::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := mac.Parse(s)
		if err != nil {
			if !a.IsZero() {
				t.Errorf("%q: an error and %v", s, a)
			}
			return
		}
		if a.IsZero() {
			return // its text is empty
		}
		if again, err := mac.Parse(a.String()); err != nil || again != a {
			t.Errorf("%q: %v, then %v, %v", s, a, again, err)
		}
	})
}
