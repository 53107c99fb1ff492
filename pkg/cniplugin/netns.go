package cniplugin

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// kernel is the open handles of one call: the host's namespace, which is that
// of the calling thread, and the pod's.
type kernel struct {
	hostNS, podNS netns.NsHandle

	// host opens a socket for each request: an ADD has few by it, or none.
	host *netlink.Handle
	pod  *netlink.Handle // see podHandle
	// What an ADD writes goes by these; nil is one that is not open.
	hostSide, podSide *rtnetlink
	later             []func() // what is waited for last
}

// openHost opens the host's side only.
func openHost() (*kernel, error) {
	k := &kernel{hostNS: netns.None(), podNS: netns.None(), host: &netlink.Handle{}}
	var err error
	if k.hostNS, err = netns.Get(); err != nil {
		return nil, refused("open the host's network namespace", err)
	}
	return k, nil
}

// openPod opens both sides. The pod's namespace must be there, and not the
// host's: an ADD there would break the node.
func openPod(path string) (*kernel, error) {
	k, err := openHost()
	if err != nil {
		return nil, err
	}
	if k.hostSide, err = openRtnetlink(); err != nil {
		k.close()
		return nil, err
	}
	ok, err := k.enterPod(path)
	if err == nil && !ok {
		err = types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("CNI_NETNS %s is not a network namespace of a pod", path),
			"the sandbox is gone, or runs in the host's network")
	}
	if err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}

// enterPod opens the pod's side, and is false where there is none: the path is
// gone, is what a lost mount leaves behind, or leads to the host.
func (k *kernel) enterPod(path string) (bool, error) {
	ns, err := netns.GetFromPath(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, refused("open CNI_NETNS "+path, err)
	}
	k.podNS = ns
	if !isNetNS(ns) || ns.Equal(k.hostNS) {
		return false, nil
	}
	return true, k.inPod(func() error {
		k.podSide, err = openRtnetlink()
		return err
	})
}

// podHandle is the library's for the pod's side.
func (k *kernel) podHandle() (*netlink.Handle, error) {
	if k.pod == nil {
		h, err := netlink.NewHandleAt(k.podNS, unix.NETLINK_ROUTE)
		if err != nil {
			return nil, refused("open netlink in the pod", err)
		}
		k.pod = h
	}
	return k.pod, nil
}

// isNetNS tells a network namespace from another file in its place
// (ioctl_ns(2), since Linux 4.11).
func isNetNS(ns netns.NsHandle) bool {
	kind, err := unix.IoctlRetInt(int(ns), unix.NS_GET_NSTYPE)
	return err == nil && kind == unix.CLONE_NEWNET
}

// inPod runs f with the thread in the pod's namespace; /proc/sys/net shows that
// of the thread that opens a file.
func (k *kernel) inPod(f func() error) error {
	if err := netns.Set(k.podNS); err != nil {
		return refused("enter the pod's network namespace", err)
	}
	err := f()
	if errBack := netns.Set(k.hostNS); errBack != nil {
		return errors.Join(err, refused("leave the pod's network namespace", errBack))
	}
	return err
}

func (k *kernel) close() {
	for _, f := range k.later {
		f()
	}
	if k.pod != nil {
		k.pod.Close()
	}
	k.hostSide.close()
	k.podSide.close()
	for _, ns := range []netns.NsHandle{k.hostNS, k.podNS} {
		if ns.IsOpen() {
			_ = ns.Close()
		}
	}
}
