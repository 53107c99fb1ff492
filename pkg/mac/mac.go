// Package mac is a 48-bit Ethernet address as a comparable value.
//
// It owns the text form, the JSON form and the rule of which addresses can
// stand on a VTEP (IEEE 802: unicast, not zero). It refuses the 8- and 20-byte
// forms that net.ParseMAC also takes: VXLAN carries Ethernet only (RFC 7348).
package mac

import (
	"errors"
	"fmt"
	"net"
)

// Addr is an Ethernet address. The zero value means "none".
type Addr [6]byte

const (
	multicastBit = 0x01 // I/G bit of the first octet
	localBit     = 0x02 // U/L bit of the first octet
)

var errNotEthernet = errors.New("not a 6-byte Ethernet address")

// Parse reads the colon form, "2e:13:b9:65:3e:03"; hyphens are taken too.
func Parse(s string) (Addr, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(Addr{}) {
		return Addr{}, fmt.Errorf("MAC %q: %w", s, errNotEthernet)
	}
	return Addr(hw), nil
}

// FromBytes converts what the kernel or a library hands out. Any length but 6
// gives the zero address.
func FromBytes(b []byte) Addr {
	if len(b) != len(Addr{}) {
		return Addr{}
	}
	return Addr(b)
}

// Local makes a locally administered unicast address of six random bytes.
func Local(random [6]byte) Addr {
	random[0] = random[0]&^multicastBit | localBit
	return Addr(random)
}

// IsUnicast tells whether the address can be that of one station.
func (a Addr) IsUnicast() bool { return a != Addr{} && a[0]&multicastBit == 0 }

// IsZero tells whether there is no address.
func (a Addr) IsZero() bool { return a == Addr{} }

// Hardware converts to the form that libraries want.
func (a Addr) Hardware() net.HardwareAddr { return a[:] }

// String gives the colon form in lower case; the zero address is "".
func (a Addr) String() string {
	if a.IsZero() {
		return ""
	}
	return net.HardwareAddr(a[:]).String()
}

// MarshalText is the colon form.
func (a Addr) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText wrote; empty text is the zero address.
func (a *Addr) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*a = Addr{}
		return nil
	}
	parsed, err := Parse(string(b))
	if err != nil {
		return err
	}
	*a = parsed
	return nil
}
