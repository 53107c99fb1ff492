package linux

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// Release is the kernel's, "6.18.1"; empty where it does not say.
func Release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// Lacks tries what weft needs in a namespace that is thrown away, and tells what
// this kernel can't do. Where no namespace can be made nothing is known.
func Lacks() []string {
	result := make(chan []string)
	go func() {
		// The thread is not unlocked: it ends with the goroutine, and the
		// namespace with it.
		runtime.LockOSThread()
		h, err := netns.New()
		if err != nil {
			result <- nil
			return
		}
		defer func() { _ = h.Close() }()
		result <- lacks(h)
	}()
	return <-result
}

func lacks(h netns.NsHandle) (out []string) {
	k, err := New(Options{Namespace: h})
	if err != nil {
		return []string{err.Error()}
	}
	defer k.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "flannel.1"
	err = netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 8472})
	if errors.Is(err, unix.EOPNOTSUPP) {
		out = append(out, fmt.Sprintf("VXLAN devices (module vxlan): %v", err))
	}
	masquerade := ruleset.Chain{
		Type: "nat", Hook: ruleset.Postrouting, Priority: 100, Rules: []ruleset.Rule{{Verdict: ruleset.Masquerade}},
	}
	err = k.applyTables([]dataplane.Op{{
		Verb: dataplane.Create, Key: ruleset.Key{Table: "weft", Chain: "postrouting"}, New: masquerade,
	}})
	if err != nil && len(k.find()) == 0 {
		out = append(out, fmt.Sprintf("nftables with nat (and no iptables is there instead): %v", err))
	}
	return out
}

// Space is the room of a file system.
type Space struct {
	Free, Size       uint64 // bytes, for who is not root
	FreeNodes, Nodes uint64 // inodes; 0 where there is no limit
}

// Room tells how full the file system of a directory is.
func Room(dir string) (Space, bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return Space{}, false
	}
	block := uint64(s.Bsize)
	return Space{Free: s.Bavail * block, Size: s.Blocks * block, FreeNodes: s.Ffree, Nodes: s.Files}, true
}
