package cniplugin_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weft/pkg/netnstest"
)

func TestDelWithLittleLeft(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]func(t *testing.T, n *node, p *pod, ns *netnstest.NS){
		"all there":           func(*testing.T, *node, *pod, *netnstest.NS) {},
		"no CNI_NETNS":        func(_ *testing.T, _ *node, p *pod, _ *netnstest.NS) { p.netns = "" },
		"the path is gone":    func(_ *testing.T, _ *node, p *pod, _ *netnstest.NS) { p.netns += "0000" },
		"a file in its place": func(_ *testing.T, n *node, p *pod, _ *netnstest.NS) { p.netns = n.subnetFile() },
		"the path is the host's": func(_ *testing.T, n *node, p *pod, _ *netnstest.NS) {
			p.netns = n.host.Path()
		},
		"no subnet.env": func(t *testing.T, n *node, _ *pod, _ *netnstest.NS) {
			if err := os.Remove(n.subnetFile()); err != nil {
				t.Fatal(err)
			}
		},
		"no address store": func(t *testing.T, n *node, _ *pod, _ *netnstest.NS) {
			if err := os.RemoveAll(filepath.Join(n.dir, "networks")); err != nil {
				t.Fatal(err)
			}
		},
		"the pod's link is gone": func(t *testing.T, _ *node, _ *pod, ns *netnstest.NS) {
			ns.Do(func() {
				if err := netlink.LinkDel(link(t, "eth0")); err != nil {
					t.Fatal(err)
				}
			})
		},
		"attached by another plugin": func(t *testing.T, n *node, _ *pod, _ *netnstest.NS) {
			n.host.Do(func() {
				for _, v := range veths(t, n.host) {
					l := link(t, v)
					if err := netlink.LinkSetDown(l); err != nil {
						t.Fatal(err)
					}
					if err := netlink.LinkSetName(l, "veth0badcafe"); err != nil {
						t.Fatal(err)
					}
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, ipv4, ipv6)
			p, ns := newPod(t, 1)
			n.add(p)
			c(t, n, &p, ns)
			n.del(p)
			n.empty()
			n.del(p) // again, with nothing at all
		})
	}
	t.Run("the namespace is gone", func(t *testing.T) {
		n := newNode(t, ipv4)
		var p pod
		t.Run("while it lives", func(t *testing.T) {
			p, _ = newPod(t, 1)
			n.add(p)
		})
		n.del(p)
		n.empty()
	})
	t.Run("never attached", func(t *testing.T) {
		n := newNode(t, ipv4)
		p, _ := newPod(t, 1)
		n.del(p)
	})
	t.Run("leaves another kind of link alone", func(t *testing.T) {
		n := newNode(t, ipv4)
		p, ns := newPod(t, 1)
		ns.Do(func() {
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}); err != nil {
				t.Fatal(err)
			}
		})
		n.del(p)
		ns.Do(func() {
			if _, err := netlink.LinkByName("eth0"); err != nil {
				t.Error(err)
			}
		})
	})
}

// weftd mends an attachment at this moment: DEL takes nothing away until it is done.
func TestDelWaitsForTheMender(t *testing.T) {
	t.Parallel()
	n := newNode(t, ipv4, ipv6)
	p, _ := newPod(t, 1)
	n.add(p)
	record := attachmentOf(t, n, p)
	_, release, ok := n.records().Hold(record.Key)
	if !ok {
		t.Fatal("the record can't be held")
	}
	deleted := make(chan int, 1)
	go func() {
		status, _ := n.call("DEL", p)
		deleted <- status
	}()
	select {
	case status := <-deleted:
		t.Errorf("DEL did not wait: status %d", status)
	case <-time.After(200 * time.Millisecond):
	}
	if links := veths(t, n.host); len(links) != 1 {
		t.Errorf("links while the record is held: %v", links)
	}
	release()
	if status := <-deleted; status != 0 {
		t.Errorf("DEL: status %d", status)
	}
	n.empty()
}
