package netnstest

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SwitchTXChecksum is `ethtool -K LINK tx-checksum-ip-generic on|off` in the
// namespace of the calling thread (ETHTOOL_SFEATURES of linux/ethtool.h, by the
// feature's place, NETIF_F_HW_CSUM_BIT of linux/netdev_features.h).
func SwitchTXChecksum(link string, on bool) error {
	const setFeatures, hwChecksum = 0x3b, 1 << 3
	request := struct {
		command, size  uint32
		valid, request uint32 // of features 0 to 31
		rest           [2]uint32
	}{command: setFeatures, size: 2, valid: hwChecksum}
	if on {
		request.request = hwChecksum
	}
	var ifreq struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifreq.name[:unix.IFNAMSIZ-1], link)
	ifreq.data = unsafe.Pointer(&request)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	if errno != 0 {
		return fmt.Errorf("switch the checksum offload of %s: %w", link, errno)
	}
	return nil
}
