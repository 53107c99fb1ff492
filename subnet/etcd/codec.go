package etcd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weftnet/weft/subnet"
)

// This file is the only place that knows flannel's wire form in etcd v3: how a
// lease's key is spelled and what its value looks like, read off flannel
// v0.28.9. What flannel knows is written byte for byte as flannel writes it;
// what it doesn't know, an extra field of the value, is read over.

// The longest subnets that fit flannel's key parser (5 and 7 bits of length).
// A flannel that meets a longer one drops the peers that it has.
const (
	longestV4 = 31
	longestV6 = 127
)

// noV4 stands in a key where IPv4 would, flannel's way to write a lease that
// has IPv6 only; noV4Public does so in the value.
const (
	noV4       = "0.0.0.0-0"
	noV4Public = "0.0.0.0"
)

// fieldError says which part of a key or of a value is wrong.
type fieldError struct{ field, reason string }

func (e *fieldError) Error() string { return e.field + " " + e.reason }

func badField(field, format string, args ...any) error {
	return &fieldError{field, fmt.Sprintf(format, args...)}
}

// encodeKey gives the last element of a lease's key: "10.5.31.0-24",
// "10.5.41.0-24&fd00:5:0:37::-64", "0.0.0.0-0&fd00:5:0:37::-64".
func encodeKey(subnets []netip.Prefix) (string, error) {
	v4, v6 := noV4, ""
	for i, p := range subnets {
		if err := checkSubnet(p); err != nil {
			return "", err
		}
		switch text := keyPart(p); {
		case p.Addr().Is4() && i == 0:
			v4 = text
		case p.Addr().Is6() && v6 == "":
			v6 = "&" + text
		default:
			return "", badField("subnet", "%s is one too many: at most one per family, IPv4 first", p)
		}
	}
	if len(subnets) == 0 {
		return "", badField("subnet", "is missing")
	}
	return v4 + v6, nil
}

func keyPart(p netip.Prefix) string { return fmt.Sprintf("%s-%d", p.Addr(), p.Bits()) }

// decodeKey gives the subnets that the last element of a lease's key names,
// IPv4 first.
func decodeKey(id string) ([]netip.Prefix, error) {
	v4, v6, dual := strings.Cut(id, "&")
	var out []netip.Prefix
	if !dual || v4 != noV4 {
		p, err := parsePart(v4)
		if err != nil {
			return nil, err
		}
		if !p.Addr().Is4() {
			return nil, badField("subnet", "%s stands where IPv4 belongs", p)
		}
		out = append(out, p)
	}
	if !dual {
		return out, nil
	}
	p, err := parsePart(v6)
	if err != nil {
		return nil, err
	}
	if !p.Addr().Is6() {
		return nil, badField("subnet", "%s stands where IPv6 belongs", p)
	}
	return append(out, p), nil
}

// parsePart reads "ADDRESS-LENGTH".
func parsePart(s string) (netip.Prefix, error) {
	i := strings.LastIndexByte(s, '-')
	if i < 0 {
		return netip.Prefix{}, badField("subnet", "%q is not of the form ADDRESS-LENGTH", s)
	}
	p, err := netip.ParsePrefix(s[:i] + "/" + s[i+1:])
	if err != nil {
		return netip.Prefix{}, badField("subnet", "%q is not an address and a prefix length", s)
	}
	return p, checkSubnet(p)
}

func checkSubnet(p netip.Prefix) error {
	longest := longestV6
	if p.Addr().Is4() {
		longest = longestV4
	}
	switch {
	case !p.IsValid():
		return badField("subnet", "is not valid")
	case p.Addr().Is4In6():
		return badField("subnet", "%s is an IPv4 address written as IPv6", p)
	case p.Bits() < 1 || p.Bits() > longest:
		return badField("subnet", "%s has a length outside of 1 to %d", p, longest)
	case p != p.Masked():
		return badField("subnet", "%s has bits set behind its length", p)
	}
	return nil
}

// typeless is the backend that flannel names in no lease. (It doesn't name udp
// either, which weft does not have.)
const typeless = "alloc"

// wireValue is the value of a lease's key. The order of the fields is that in
// which flannel emits them; PublicIP and PublicIPv6 are always there.
type wireValue struct {
	PublicIP      string
	PublicIPv6    *string
	BackendType   string          `json:",omitempty"`
	BackendData   json.RawMessage `json:",omitempty"`
	BackendV6Data json.RawMessage `json:",omitempty"`

	exact bool // read by parseExact: the data has no blanks
}

func (v *wireValue) data(raw json.RawMessage) json.RawMessage {
	if v.exact {
		return raw
	}
	return compact(raw)
}

// encodeValue gives the value under which flannel and we announce a lease.
func encodeValue(backend string, shares []subnet.Share) ([]byte, error) {
	v := wireValue{PublicIP: noV4Public, BackendType: backend}
	if backend == typeless {
		v.BackendType = ""
	}
	for _, s := range shares {
		if !s.Public.IsValid() || s.Public.Is4() != s.Subnet.Addr().Is4() {
			return nil, badField("public address", "%s does not fit the subnet %s", s.Public, s.Subnet)
		}
		text := s.Public.WithZone("").String()
		if s.Public.Is4() {
			v.PublicIP, v.BackendData = text, s.Data
		} else {
			v.PublicIPv6, v.BackendV6Data = &text, s.Data
		}
	}
	out, err := json.Marshal(v)
	if err != nil {
		return nil, badField("backend data", "is not JSON: %v", err)
	}
	return out, nil
}

// decodeValue gives the backend and the shares of a lease whose key names
// subnets. A family that the key doesn't have is not looked at.
func decodeValue(subnets []netip.Prefix, raw []byte) (backend string, shares []subnet.Share, err error) {
	v, err := parseValue(raw)
	if err != nil {
		return "", nil, err
	}
	for _, p := range subnets {
		s := subnet.Share{Subnet: p}
		if p.Addr().Is4() {
			s.Data = v.data(v.BackendData)
			s.Public, err = parsePublic("PublicIP", &v.PublicIP, true)
		} else {
			s.Data = v.data(v.BackendV6Data)
			s.Public, err = parsePublic("PublicIPv6", v.PublicIPv6, false)
		}
		if err != nil {
			return "", nil, err
		}
		shares = append(shares, s)
	}
	if v.BackendType == "" {
		v.BackendType = typeless
	}
	return strings.ToLower(v.BackendType), shares, nil
}

func parseValue(raw []byte) (wireValue, error) {
	v, exact := parseExact(raw)
	if exact { // nearly always
		return v, nil
	}
	v = wireValue{}
	err := json.Unmarshal(raw, &v)
	if t := (*json.UnmarshalTypeError)(nil); errors.As(err, &t) && t.Field != "" {
		return v, badField(t.Field, "is a JSON %s", t.Value)
	}
	if err != nil {
		return v, badField("value", "is not JSON: %v", err)
	}
	return v, nil
}

func parsePublic(field string, text *string, is4 bool) (netip.Addr, error) {
	if text == nil || *text == "" {
		return netip.Addr{}, badField(field, "is missing")
	}
	a, err := netip.ParseAddr(*text)
	switch {
	case err != nil || a.Zone() != "":
		return netip.Addr{}, badField(field, "%q is not an address", *text)
	case a.Is4() != is4 || a.Is4In6():
		return netip.Addr{}, badField(field, "%s is of the wrong family", a)
	}
	return a, nil
}

// compact brings the backend's data into the form in which values compare:
// without blanks, and nil for null.
func compact(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var out bytes.Buffer
	if json.Compact(&out, raw) != nil {
		return raw // can't be: it was cut out of a document that parsed
	}
	return out.Bytes()
}

// decodeLease reads a whole lease; Created, Revision and Expires are the
// caller's to fill in.
func decodeLease(id string, raw []byte) (subnet.Lease, error) {
	subnets, err := decodeKey(id)
	if err != nil {
		return subnet.Lease{}, err
	}
	backend, shares, err := decodeValue(subnets, raw)
	if err != nil {
		return subnet.Lease{}, err
	}
	return subnet.Lease{ID: id, Node: shares[0].Public.String(), Backend: backend, Shares: shares}, nil
}

// skipped says of a key what is wrong with it.
func skipped(id string, err error) subnet.Skipped {
	if f := (*fieldError)(nil); errors.As(err, &f) {
		return subnet.Skipped{ID: id, Field: f.field, Reason: f.reason}
	}
	return subnet.Skipped{ID: id, Field: "value", Reason: err.Error()}
}
