package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/network/events"
	"github.com/weftnet/weft/network/probe"
	"github.com/weftnet/weft/pkg/ui"
	"github.com/weftnet/weft/subnet"
)

// overlay answers as the weftd of a node with so many dual-stack peers does, the
// same every time. Some of them are not well.
func overlay(peers int) ui.Ask {
	now := time.Now()
	list := make([]network.Peer, 0, peers)
	dice := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same every time is what is wanted
	for i := range peers {
		list = append(list, somePeer(i, now, dice))
	}
	answers := map[string]any{"/v1/status": someStatus(list, now), "/v1/peers": list}
	return func(_ context.Context, path string) (io.ReadCloser, error) {
		if strings.HasPrefix(path, "/v1/events") {
			return someEvents(path, now)
		}
		text, err := json.Marshal(answers[path])
		return io.NopCloser(bytes.NewReader(text)), err
	}
}

func somePeer(i int, now time.Time, dice *rand.Rand) network.Peer {
	p := network.Peer{
		Lease: fmt.Sprintf("10.42.%d.0-24&fd00:42:0:%x::-64", i+2, i+2),
		Node:  fmt.Sprintf("192.0.%d.%d", 2+i/250, i%250+2),
		Since: now.Add(-time.Duration(i*i+200) * time.Second),
	}
	if i >= 250 {
		p.Lease = fmt.Sprintf("10.43.%d.0-24&fd00:42:0:%x::-64", i-250, i+2)
	}
	rtt := 0.2 + 0.4*dice.Float64() + 8*float64(i%7/6)*dice.Float64()
	if i == 0 {
		rtt = 0.31
	}
	four, six, _ := strings.Cut(p.Lease, "&")
	mac := fmt.Sprintf("%02x:73:1d:%02x:5b:%02x", 0x92, i>>8, i&0xff)
	for f, share := range []string{four, six} {
		at := strings.LastIndex(share, "-")
		path := network.PeerPath{
			Subnet: share[:at] + "/" + share[at+1:], Public: p.Node, VTEP: share[:at], MAC: mac, Way: "tunnel",
			Dev: "flannel.1", Probe: probe.OK, RTT: rtt + 0.05*float64(f),
		}
		if f == 1 {
			path.Public, path.Dev = fmt.Sprintf("2001:db8::%x", i+2), "flannel-v6.1"
		}
		p.Paths = append(p.Paths, path)
	}
	ail(&p, i, now)
	return p
}

// ail gives some of them an illness.
func ail(p *network.Peer, i int, now time.Time) {
	first := &p.Paths[0]
	first.ProbeSince = now.Add(-3 * time.Minute)
	switch {
	case i == 3 || i%97 == 90:
		first.Probe, first.Loss = "lossy", 0.25
	case i == 2 || i%131 == 100:
		for f := range p.Paths {
			p.Paths[f].Probe, p.Paths[f].Loss, p.Paths[f].RTT = "overlay-down", 1, 0
		}
	case i%173 == 150:
		first.Probe = "mtu"
	case i%211 == 180:
		first.Probe, first.Loss, first.RTT = "underlay-down", 1, 0
	case i == 333:
		p.Reason, p.Paths = "VtepMAC is multicast", nil
	}
}

func someStatus(peers []network.Peer, now time.Time) network.Status {
	s := network.Status{
		Version: "v0.1.0", Ready: true, Peers: len(peers), Rounds: 14, Ops: 9 + 8*len(peers), LastTook: "3.992ms",
		Node: network.NodeStatus{
			Lease: "10.42.1.0-24&fd00:42:0:1::-64", Backend: "vxlan", Subnets: []string{"10.42.1.0/24", "fd00:42:0:1::/64"},
			Uplink: "eth0", Local: []string{"192.0.2.1", "2001:db8::1"}, Public: []string{"192.0.2.1", "2001:db8::1"},
			MTU: 1430, Expires: now.Add(23 * time.Hour),
		},
		Rules:    network.RulesStatus{Engine: "nftables", Reason: "no FORWARD policy of iptables drops pods' packets"},
		Store:    network.StoreStatus{Revision: 1284, Leases: len(peers) + 1, Heard: now},
		Repaired: 2, RepairedKinds: map[string]int{"route": 1, "fdb": 1},
	}
	for _, p := range peers {
		if p.Reason != "" {
			s.Skipped = append(s.Skipped, subnet.Skipped{ID: p.Lease, Node: p.Node, Field: "VtepMAC", Reason: "is multicast"})
			s.Peers--
		}
	}
	if len(peers) > 0 {
		s.Conflicts = map[string]string{"route 10.42.77.0/24": "something that is not weft's stands there; " +
			"ip route show 10.42.77.0/24 names it"}
	}
	return s
}

func someEvents(path string, now time.Time) (io.ReadCloser, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	if strings.HasSuffix(path, "after=0") {
		for i, e := range []events.Event{
			{Kind: events.Started, Detail: "v0.1.0"},
			{Kind: events.UplinkChosen, Subject: "eth0", Detail: "192.0.2.1, 2001:db8::1"},
			{Kind: events.LeaseTaken, Subject: "10.42.1.0-24&fd00:42:0:1::-64"},
			{Kind: events.PeerCame, Subject: "10.42.2.0-24&fd00:42:0:2::-64", Detail: "192.0.2.2"},
			{Kind: events.Ready},
			{Kind: events.Repaired, Subject: "route 10.42.2.0/24", Detail: "was missing"},
			{Kind: events.PeerUnheard, Subject: "10.42.4.0-24&fd00:42:0:4::-64", Detail: "192.0.2.4: overlay-down"},
		} {
			e.Seq, e.Time = uint64(i)+1, now.Add(time.Duration(i-600)*time.Second) //nolint:gosec // counts up
			if err := enc.Encode(e); err != nil {
				return nil, err
			}
		}
	}
	return io.NopCloser(&out), nil
}
