package etcd

import (
	"bytes"

	"github.com/weftnet/weft/pkg/cutter"
)

const commonBackend = "vxlan" // 10,000 leases share it

// parseExact reads the form in which flannel and we write a value, at a tenth of
// what encoding/json costs for any. ok is false for every other form, be it right
// or wrong: that is for encoding/json to tell.
func parseExact(raw []byte) (v wireValue, ok bool) {
	if !cutter.Plain(raw) || bytes.IndexByte(raw, ' ') >= 0 {
		return v, false
	}
	c := cutter.Cutter{Rest: raw, OK: true}
	c.Word(`{"PublicIP":"`)
	v.PublicIP = c.Text("")
	c.Word(`,"PublicIPv6":`)
	if !c.Maybe("null") {
		c.Word(`"`)
		text := c.Text("")
		v.PublicIPv6 = &text
	}
	if c.Maybe(`,"BackendType":"`) {
		v.BackendType = c.Text(commonBackend)
	}
	if c.Maybe(`,"BackendData":`) {
		v.BackendData = c.Object()
	}
	if c.Maybe(`,"BackendV6Data":`) {
		v.BackendV6Data = c.Object()
	}
	c.Word("}")
	v.exact = true
	return v, c.OK && len(c.Rest) == 0
}
