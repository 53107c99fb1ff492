package cutter

import (
	"encoding/json"
	"strconv"
	"testing"
)

func TestCutter(t *testing.T) {
	c := Cutter{Rest: []byte(`{"a":"one","b":-12,"c":{"x":{"y":"}"},"z":[1]},"d":null}`), OK: true}
	c.Word(`{"a":"`)
	a := c.Text("two")
	c.Word(`,"b":`)
	b := c.Int()
	c.Word(`,"c":`)
	object := c.Object()
	c.Word(`,"d":`)
	null := c.Maybe("null")
	c.Word("}")
	if !c.OK || len(c.Rest) > 0 || a != "one" || b != -12 || string(object) != `{"x":{"y":"}"},"z":[1]}` || !null {
		t.Errorf("%t, rest %q: %q %d %s %t", c.OK, c.Rest, a, b, object, null)
	}
}

func TestCutterRefuses(t *testing.T) {
	tests := map[string]struct {
		text string
		cut  func(*Cutter)
	}{
		"another word":               {`{"b":`, func(c *Cutter) { c.Word(`{"a":`) }},
		"no end of a text":           {`abc`, func(c *Cutter) { c.Text("") }},
		"no end of a raw text":       {`abc`, func(c *Cutter) { c.Raw() }},
		"no number":                  {`"1"`, func(c *Cutter) { c.Int() }},
		"a number that does not fit": {`1234567890123456789,`, func(c *Cutter) { c.Int(); c.Word(",") }},
		"a fraction":                 {`1.5,`, func(c *Cutter) { c.Int(); c.Word(",") }},
		"no object":                  {`[1]`, func(c *Cutter) { c.Object() }},
		"no end of an object":        {`{"a":{}`, func(c *Cutter) { c.Object() }},
		"what is no JSON":            {`{a}`, func(c *Cutter) { c.Object() }},
		"nothing":                    {``, func(c *Cutter) { c.Object() }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := Cutter{Rest: []byte(test.text), OK: true}
			if test.cut(&c); c.OK {
				t.Errorf("taken; rest %q", c.Rest)
			}
		})
	}
}

func FuzzObject(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":{"b":"}"}} rest`, `{"a":"{"}`, `{"a`, `x`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if !Plain(text) {
			return
		}
		c := Cutter{Rest: text, OK: true}
		object := c.Object()
		if c.OK && (!json.Valid(object) || string(object)+string(c.Rest) != string(text)) {
			t.Errorf("%q out of %q", object, text)
		}
	})
}

func FuzzInt(f *testing.F) {
	for _, seed := range []int64{0, 1, -1, 999999999999999999, -999999999999999999} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, n int64) {
		c := Cutter{Rest: strconv.AppendInt(nil, n, 10), OK: true}
		if have := c.Int(); c.OK && len(c.Rest) == 0 && have != n {
			t.Errorf("%d, not %d", have, n)
		}
	})
}
