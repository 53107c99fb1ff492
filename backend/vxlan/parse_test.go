package vxlan_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/pkg/mac"
)

func TestParseOptions(t *testing.T) {
	standard := vxlan.Options{VNI: 1, Port: 8472}
	all := vxlan.Options{VNI: 42, Port: 4789, MTU: 1400, Learning: true, GBP: true}
	cases := map[string]struct {
		raw      string
		want     vxlan.Options
		warnings []string
		err      string // a part of it
	}{
		"nothing":                {"", standard, nil, ""},
		"null":                   {"null", standard, nil, ""},
		"type only":              {`{"Type":"vxlan"}`, standard, nil, ""},
		"all":                    {`{"VNI":42,"Port":4789,"MTU":1400,"Learning":true,"GBP":true}`, all, nil, ""},
		"case does not matter":   {`{"vni":42,"PORT":4789,"mtu":1400,"learning":true,"gbp":true}`, all, nil, ""},
		"port 0 is the kernel's": {`{"Port":0}`, standard, nil, ""},
		"null is like absent":    {`{"VNI":null,"Port":null,"GBP":null}`, standard, nil, ""},
		"the last one wins":      {`{"VNI":7,"vni":42,"Vni":null}`, vxlan.Options{VNI: 42, Port: 8472}, nil, ""},
		"direct routing off":     {`{"DirectRouting":false}`, standard, nil, ""},
		"direct routing": {
			`{"DirectRouting":true}`, vxlan.Options{VNI: 1, Port: 8472, DirectRouting: true}, nil, "",
		},
		"keys for Windows": {`{"Name":"x","MacPrefix":"0E-2A"}`, standard, []string{
			"Backend.Name means nothing to vxlan on Linux",
			"Backend.MacPrefix means nothing to vxlan on Linux",
		}, ""},
		"largest VNI":      {`{"VNI":16777215}`, vxlan.Options{VNI: 16777215, Port: 8472}, nil, ""},
		"VNI 0":            {`{"VNI":0}`, vxlan.Options{}, nil, "Backend.VNI is 0: write a whole number from 1 to 16777215"},
		"VNI of 25 bits":   {`{"VNI":16777216}`, vxlan.Options{}, nil, "Backend.VNI is 16777216"},
		"VNI is text":      {`{"VNI":"1"}`, vxlan.Options{}, nil, `Backend.VNI is "1": write`},
		"VNI is broken":    {`{"VNI":1.5}`, vxlan.Options{}, nil, "Backend.VNI is 1.5"},
		"port too large":   {`{"Port":65536}`, vxlan.Options{}, nil, "Backend.Port is 65536"},
		"negative MTU":     {`{"MTU":-1}`, vxlan.Options{}, nil, "Backend.MTU is -1"},
		"flag is a number": {`{"Learning":1}`, vxlan.Options{}, nil, "Backend.Learning is 1: write true or false"},
		"a list":           {`[]`, vxlan.Options{}, nil, `is not an object such as {"Type":"vxlan"}`},
		"damaged":          {`{"VNI":1`, vxlan.Options{}, nil, "is not an object"},
		"two documents":    {`{} {}`, vxlan.Options{}, nil, "is not an object"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			have, warnings, err := vxlan.ParseOptions(json.RawMessage(c.raw))
			if d := cmp.Diff(c.want, have) + cmp.Diff(c.warnings, warnings); d != "" {
				t.Error(d)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want one with %q", err, c.err)
			}
		})
	}
}

func TestParseVTEP(t *testing.T) {
	want := vxlan.VTEP{VNI: 1, MAC: mac.Addr{0x12, 0xc6, 0x65, 0x89, 0xb4, 0xe3}}
	for _, raw := range []string{
		`{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}`,
		`{"VNI":1,"VtepMAC":"12:C6:65:89:B4:E3"}`,
		` { "VtepMAC" : "12-c6-65-89-b4-e3", "VNI" : 1, "More": [1] } `,
		`{"vni":1,"vtepmac":"12:c6:65:89:b4:e3"}`,
		`{"VNI":1,"VtepMAC":"\u0031\u0032:c6:65:89:b4:e3"}`,
	} {
		have, err := vxlan.ParseVTEP(json.RawMessage(raw))
		if err != nil || have != want {
			t.Errorf("%s: %v, %v", raw, have, err)
		}
	}
	if d := cmp.Diff(`{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}`, string(want.Encode())); d != "" {
		t.Errorf("flannel takes these bytes apart by position:\n%s", d)
	}
	want.VNI = 0
	for _, raw := range []string{`{"VtepMAC":"12:c6:65:89:b4:e3"}`, `{"VNI":null,"VtepMAC":"12:c6:65:89:b4:e3"}`} {
		have, err := vxlan.ParseVTEP(json.RawMessage(raw))
		if err != nil || have != want {
			t.Errorf("%s: %v, %v", raw, have, err)
		}
	}
}

func TestParseVTEPAllocatesNothing(t *testing.T) {
	raw := vxlan.VTEP{VNI: 16777215, MAC: mac.Addr{2, 0, 0, 0, 0, 1}}.Encode()
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := vxlan.ParseVTEP(raw); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// What is read is valid, is written so that it is read again, and means the
// same with a blank in front, which is not the exact form.
func FuzzParseVTEP(f *testing.F) {
	for _, seed := range []string{
		`{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}`, `{"VNI":01,"VtepMAC":"12:c6:65:89:b4:e3"}`,
		`{"VNI":16777216,"VtepMAC":"12:c6:65:89:b4:e3"}`, `{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3\"}`,
		`{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e"}`, `{"VtepMAC":"12:c6:65:89:b4:e3"}`, `{"VNI":,"VtepMAC":"12:c6:65:89:b4:e3"}`, `null`, ``, `{}`, `[]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := vxlan.ParseVTEP(raw)
		spaced, spacedErr := vxlan.ParseVTEP(append([]byte(" "), raw...))
		if len(raw) > 0 && (v != spaced || (err == nil) != (spacedErr == nil)) {
			t.Errorf("%q: %v, %v; with a blank %v, %v", raw, v, err, spaced, spacedErr)
		}
		var field *backend.FieldError
		if err != nil {
			if !errors.As(err, &field) || v != (vxlan.VTEP{}) {
				t.Errorf("%q: %v, %v", raw, v, err)
			}
			return
		}
		if !v.MAC.IsUnicast() || v.VNI < 0 || v.VNI >= 1<<24 {
			t.Errorf("%q is taken as %v", raw, v)
		}
		if again, err := vxlan.ParseVTEP(v.Encode()); err != nil || again != v {
			t.Errorf("%v, written and read again: %v, %v", v, again, err)
		}
	})
}

func FuzzParseOptions(f *testing.F) {
	for _, seed := range []string{
		`{"Type":"vxlan","VNI":1,"Port":8472,"MTU":1450,"Learning":false,"GBP":true}`,
		`{"vni":1e0}`, `{"VNI":1,"vni":null}`, `{"":{"":[]}}`, `null`, ` {} `, `{}{}`, `{"DirectRouting":true}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, _, err := vxlan.ParseOptions(raw)
		if err != nil {
			if o != (vxlan.Options{}) {
				t.Errorf("%q: an error and %v", raw, o)
			}
			return
		}
		if o.VNI < 1 || o.VNI >= 1<<24 || o.Port < 1 || o.Port > 65535 || o.MTU < 0 || o.MTU > 65535 {
			t.Errorf("%q is taken as %+v", raw, o)
		}
	})
}
