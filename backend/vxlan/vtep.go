package vxlan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/mac"
)

// maxVNI is the largest VXLAN network identifier: 24 bits (RFC 7348, section 5).
const maxVNI = 1<<24 - 1

// VTEP is what a share's Data says of a node's VXLAN device.
type VTEP struct {
	VNI int // 0: not told, as by old flannels and by appliances that pose as nodes
	MAC mac.Addr
}

// Encode writes exactly the bytes that flannel writes. Its restart takes them
// apart by position, so neither order nor spacing may change.
func (v VTEP) Encode() json.RawMessage {
	if v.VNI == 0 {
		return fmt.Appendf(nil, `{"VtepMAC":"%s"}`, v.MAC)
	}
	return fmt.Appendf(nil, `{"VNI":%d,"VtepMAC":"%s"}`, v.VNI, v.MAC)
}

// ParseVTEP reads any JSON object with a VtepMAC and perhaps a VNI; what Encode
// writes costs no allocation. An error is a *backend.FieldError.
func ParseVTEP(data json.RawMessage) (VTEP, error) {
	v, ok := parseExact(data)
	if !ok {
		var err error
		if v, err = parseAny(data); err != nil {
			return VTEP{}, err
		}
	}
	if !v.MAC.IsUnicast() {
		addr := v.MAC // so that only this one escapes
		return VTEP{}, fieldf("VtepMAC", "%s is not the address of one station", addr.Hardware())
	}
	return v, nil
}

// parseExact reads the form that Encode writes.
func parseExact(b []byte) (v VTEP, ok bool) {
	if b, ok = bytes.CutPrefix(b, []byte(`{"VNI":`)); !ok {
		return v, false
	}
	digits := 0
	for ; digits < len(b) && digits < 8 && b[digits] >= '0' && b[digits] <= '9'; digits++ {
		v.VNI = v.VNI*10 + int(b[digits]-'0')
	}
	if digits == 0 || b[0] == '0' { // JSON has no leading zeros
		return v, false
	}
	if b, ok = bytes.CutPrefix(b[digits:], []byte(`,"VtepMAC":"`)); !ok {
		return v, false
	}
	if b, ok = bytes.CutSuffix(b, []byte(`"}`)); !ok {
		return v, false
	}
	v.MAC, ok = parseMAC(b)
	return v, ok && v.VNI >= 1 && v.VNI <= maxVNI
}

// parseMAC reads the colon form alone.
func parseMAC(b []byte) (addr mac.Addr, ok bool) {
	if len(b) != len("00:00:00:00:00:00") {
		return addr, false
	}
	for i := range addr {
		hi, ok1 := nibble(b[3*i])
		lo, ok2 := nibble(b[3*i+1])
		if !ok1 || !ok2 || i < 5 && b[3*i+2] != ':' {
			return addr, false
		}
		addr[i] = hi<<4 | lo
	}
	return addr, true
}

func nibble(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// parseAny reads the same in any spelling that JSON allows.
func parseAny(data []byte) (VTEP, error) {
	if len(data) == 0 {
		return VTEP{}, fieldf("backend data", "is missing")
	}
	var wire struct {
		VNI     *int
		VtepMAC *string
	}
	if err := json.Unmarshal(data, &wire); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && wrong.Field != "" {
			return VTEP{}, fieldf(wrong.Field, "is a JSON %s", wrong.Value)
		}
		return VTEP{}, fieldf("backend data", "is not a VTEP's: %v", err)
	}
	var v VTEP
	switch {
	case wire.VNI == nil:
	case *wire.VNI < 1 || *wire.VNI > maxVNI:
		return VTEP{}, fieldf("VNI", "%d is not between 1 and %d", *wire.VNI, maxVNI)
	default:
		v.VNI = *wire.VNI
	}
	if wire.VtepMAC == nil {
		return VTEP{}, fieldf("VtepMAC", "is missing from the backend data")
	}
	var err error
	if v.MAC, err = mac.Parse(*wire.VtepMAC); err != nil {
		return VTEP{}, fieldf("VtepMAC", "%.40q is not a 6-byte Ethernet address", *wire.VtepMAC)
	}
	return v, nil
}

func fieldf(field, format string, args ...any) error {
	return &backend.FieldError{Field: field, Reason: fmt.Sprintf(format, args...)}
}
