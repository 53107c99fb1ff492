package etcd

import (
	"bytes"
	"encoding/json"
)

// parseExact reads the form in which flannel and we write a value, at a tenth of
// what encoding/json costs for any. ok is false for every other form, be it right
// or wrong: that is for encoding/json to tell.
func parseExact(raw []byte) (v wireValue, ok bool) {
	if bytes.IndexFunc(raw, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\\' }) >= 0 {
		return v, false // a blank, an escape or what is not ASCII
	}
	c := cutter{rest: raw, ok: true}
	c.word(`{"PublicIP":"`)
	v.PublicIP = c.text()
	c.word(`,"PublicIPv6":`)
	if !c.maybe("null") {
		c.word(`"`)
		text := c.text()
		v.PublicIPv6 = &text
	}
	if c.maybe(`,"BackendType":"`) {
		v.BackendType = c.text()
	}
	if c.maybe(`,"BackendData":`) {
		v.BackendData = c.object()
	}
	if c.maybe(`,"BackendV6Data":`) {
		v.BackendV6Data = c.object()
	}
	c.word("}")
	v.exact = true
	return v, c.ok && len(c.rest) == 0
}

// cutter takes text off its front. Once it does not find what it looks for, ok is
// false, and what it gives means nothing.
type cutter struct {
	rest []byte
	ok   bool
}

func (c *cutter) maybe(word string) bool {
	rest, found := bytes.CutPrefix(c.rest, []byte(word))
	if found {
		c.rest = rest
	}
	return found
}

func (c *cutter) word(word string) { c.ok = c.maybe(word) && c.ok }

// text is what stands up to the next quote, and takes that off too.
func (c *cutter) text() string {
	text, rest, found := bytes.Cut(c.rest, []byte(`"`))
	c.ok, c.rest = c.ok && found, rest
	if string(text) == commonBackend {
		return commonBackend // 10,000 leases share it
	}
	return string(text)
}

const commonBackend = "vxlan"

// object is a JSON object without objects in it, copied.
func (c *cutter) object() json.RawMessage {
	end := bytes.IndexByte(c.rest, '}') + 1
	data := c.rest[:end]
	if end == 0 || data[0] != '{' || !json.Valid(data) {
		c.ok = false
		return nil
	}
	c.rest = c.rest[end:]
	return bytes.Clone(data)
}
