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
	const setFeatures = 0x3b
	request := struct {
		command, size  uint32
		valid, request uint32 // of features 0 to 31
		rest           [2]uint32
	}{command: setFeatures, size: 2, valid: hwChecksum}
	if on {
		request.request = hwChecksum
	}
	if err := ethtool(link, unsafe.Pointer(&request)); err != nil {
		return fmt.Errorf("switch the checksum offload of %s: %w", link, err)
	}
	return nil
}

// TXChecksum is whether `ethtool -k LINK` says tx-checksum-ip-generic: on
// (ETHTOOL_GFEATURES).
func TXChecksum(link string) (on bool, err error) {
	const getFeatures = 0x3a
	request := struct {
		command, size                                uint32
		available, requested, active, neverChanged   uint32
		available2, requested2, active2, neverChange uint32
	}{command: getFeatures, size: 2}
	if err := ethtool(link, unsafe.Pointer(&request)); err != nil {
		return false, fmt.Errorf("ask for the checksum offload of %s: %w", link, err)
	}
	return request.active&hwChecksum != 0, nil
}

const hwChecksum = 1 << 3

func ethtool(link string, request unsafe.Pointer) error {
	var ifreq struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifreq.name[:unix.IFNAMSIZ-1], link)
	ifreq.data = request
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	if errno != 0 {
		return errno
	}
	return nil
}
