package linux

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/offload"
)

// What `ethtool -K DEV tx-checksum-ip-generic` writes is asked for by the older
// of its two ways (SIOCETHTOOL, linux/ethtool.h): every kernel has it, and on a
// VXLAN device it speaks of this one feature. Without it the kernel gives up
// segmentation offloads of the device too, and takes them up again with it.
const (
	ethtoolGetTXChecksum = 0x16 // ETHTOOL_GTXCSUM
	ethtoolSetTXChecksum = 0x17 // ETHTOOL_STXCSUM
)

// ethtoolValue is struct ethtool_value.
type ethtoolValue struct{ command, value uint32 }

// ethtoolRequest is struct ifreq with a pointer.
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data *ethtoolValue
	_    [16]byte // the largest member of its union has 24 bytes
}

func (k *Kernel) ethtool(name string, v *ethtoolValue) error {
	request := ethtoolRequest{data: v}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	return k.ns.do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			return errno
		}
		return nil
	})
}

// txChecksum gives OffloadOff or nothing. A device that goes meanwhile has none.
func (k *Kernel) txChecksum(name string) (offload.Setting, error) {
	v := ethtoolValue{command: ethtoolGetTXChecksum}
	switch err := k.ethtool(name, &v); {
	case errors.Is(err, unix.ENODEV):
		return offload.AsIs, nil
	case err != nil:
		return offload.AsIs, fmt.Errorf("ask %s for its checksum offload: %w", name, err)
	case v.value == 0:
		return offload.Off, nil
	}
	return offload.AsIs, nil
}

func (k *Kernel) setTXChecksum(name string, want offload.Setting) error {
	v := ethtoolValue{command: ethtoolSetTXChecksum}
	switch want {
	case offload.AsIs:
		return nil
	case offload.On:
		v.value = 1
	}
	if err := k.ethtool(name, &v); err != nil {
		return fmt.Errorf("set the checksum offload of %s: %w", name, err)
	}
	return nil
}
