// Package offload names what may be wanted of work that a device can leave to
// the network card. Pure.
package offload

// Setting is what is wanted of an offload, or how it is set.
type Setting uint8

// The settings. AsIs is no wish: whatever somebody else has set stays.
const (
	AsIs Setting = iota
	On
	Off
)

// Suits tells whether what a device has is what is wanted of it. Of a device
// AsIs means that it is not off: on is what the kernel gives a new one.
func (want Setting) Suits(have Setting) bool {
	return want == AsIs || (want == Off) == (have == Off)
}
