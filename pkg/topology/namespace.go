package topology

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namesDir is where iproute2 keeps named network namespaces (ip-netns(8)).
const namesDir = "/run/netns"

// Namespace is a named network namespace. Its methods may be called from many
// goroutines at once.
type Namespace struct {
	Name  string
	Addrs []netip.Addr // on eth0, in the order of the networks
}

// Path is the file that stands for the namespace, as CNI and setns want it.
func (ns *Namespace) Path() string { return filepath.Join(namesDir, ns.Name) }

// Do runs fn inside the namespace and returns its error. What fn opens or
// starts on its own goroutine (a socket, a process) belongs to the namespace
// for good; goroutines that fn starts do not.
func (ns *Namespace) Do(fn func() error) error {
	handle, err := ns.open()
	if err != nil {
		return err
	}
	defer handle.Close()
	return onOwnThread(func() error {
		if err := netns.Set(handle); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", ns.Name, err)
		}
		return fn()
	})
}

func (ns *Namespace) open() (netns.NsHandle, error) {
	handle, err := netns.GetFromPath(ns.Path())
	if err != nil {
		return handle, fmt.Errorf("open network namespace %s: %w", ns.Name, err)
	}
	return handle, nil
}

// onOwnThread runs fn on a thread that may change its network namespace, and
// brings the thread home. One that doesn't get home dies with its goroutine:
// the runtime never reuses a locked thread.
func onOwnThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		defer close(result)
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			result <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		err = fn()
		if homeErr := netns.Set(home); homeErr == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// newNamespace makes a named namespace with its loopback up. Its sysctls stay
// as the kernel makes them, so that a node is like a real one.
func newNamespace(name string) (*Namespace, error) {
	if err := shareNamesDir(); err != nil {
		return nil, err
	}
	err := onOwnThread(func() error {
		handle, err := netns.NewNamed(name)
		if err != nil {
			return fmt.Errorf("add network namespace %s: %w", name, err)
		}
		defer handle.Close()
		return linkUp("lo")
	})
	if err != nil {
		return nil, err
	}
	return &Namespace{Name: name}, nil
}

// shareNamesDir makes the directory of names a shared mount, as `ip netns add`
// does: were it to do so after us, it would hide our mounts below its own, and
// they could not be taken away any more.
func shareNamesDir() error {
	if err := os.MkdirAll(namesDir, 0o755); err != nil {
		return fmt.Errorf("directory of network namespaces: %w", err)
	}
	err := unix.Mount("", namesDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) { // EINVAL: not a mount yet
		return wrapMount(err)
	}
	if err := unix.Mount(namesDir, namesDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return wrapMount(err)
	}
	return wrapMount(unix.Mount("", namesDir, "none", unix.MS_SHARED|unix.MS_REC, ""))
}

func wrapMount(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("mount %s: %w", namesDir, err)
}

// deleteNamespace takes the name away; the kernel frees the namespace, with
// all links in it, when the last process and socket in it are gone. What is
// not there is no error. A name may have lost its mount in a crash.
func deleteNamespace(name string) error {
	path := filepath.Join(namesDir, name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount network namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete network namespace %s: %w", name, err)
	}
	return nil
}

// Interface reads an interface of the namespace: its MTU, its MAC, its flags.
func (ns *Namespace) Interface(name string) (net.Interface, error) {
	var iface *net.Interface
	err := ns.Do(func() (err error) {
		iface, err = net.InterfaceByName(name)
		return err
	})
	if err != nil {
		return net.Interface{}, fmt.Errorf("interface %s of %s: %w", name, ns.Name, err)
	}
	return *iface, nil
}

// Listen opens a TCP listener inside the namespace; it can be served from
// outside of it.
func (ns *Namespace) Listen(at netip.AddrPort) (net.Listener, error) {
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", ns.Name, err)
	}
	return l, nil
}

// Client is an HTTP client whose connections begin inside the namespace. It
// keeps none of them open, follows no proxy, and takes addresses, not names.
func (ns *Namespace) Client() *http.Client {
	dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = ns.Do(func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}
