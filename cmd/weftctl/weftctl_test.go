package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/network/events"
	"github.com/weftnet/weft/pkg/golden"
	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/etcd"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func someStatus() network.Status {
	return network.Status{
		Version: "v0.1.0", Ready: true, Peers: 2, Rounds: 3, Ops: 17, LastTook: "1.2ms",
		Node: network.NodeStatus{
			Lease: "10.42.1.0-24", Backend: "vxlan", Subnets: []string{"10.42.1.0/24"}, Uplink: "eth0",
			Local: []string{"192.168.77.1"}, Public: []string{"192.168.77.1"}, MTU: 1450,
		},
		Store: network.StoreStatus{Epoch: "e", Revision: 12, Leases: 3, Heard: now.Add(-3 * time.Second)},
	}
}

func TestStatusText(t *testing.T) {
	broken := someStatus()
	broken.Ready = false
	broken.Reasons = []string{"dataplane: link flannel.1: a foreign device has this name"}
	broken.Skipped = []subnet.Skipped{{ID: "10.42.9.0-24", Node: "192.0.2.9", Field: "VtepMAC", Reason: "is multicast"}}
	broken.Store.InDoubt = true
	broken.Probes = "open a socket for pings: permission denied"
	broken.Repaired, broken.RepairedKinds = 66, map[string]int{"route": 65, "link": 1}
	broken.Fights = []string{"neigh 10.42.2.0 dev flannel.1", "route 10.42.2.0/24"}
	broken.Fighters = map[string]string{"route 10.42.2.0/24": "probably routed (pid 812, by its netlink port)"}
	broken.Conflicts = map[string]string{"route 10.42.3.0/24": "something that is not weft's stands there"}
	broken.Store.Away, broken.Store.AwaySince = "connection refused", now.Add(-90*time.Second)
	broken.Store.Malformed = []subnet.Skipped{{ID: "what-ever", Field: "key", Reason: "is no subnet"}}
	fresh := network.Status{Version: "v0.1.0", Reasons: []string{"lease: not yet"}, LastTook: "0s"}
	for name, s := range map[string]network.Status{
		"status-ready": someStatus(), "status-broken": broken, "status-fresh": fresh, "status-offline": offlineStatus(),
	} {
		var out bytes.Buffer
		if err := printStatus(&out, s, now); err != nil {
			t.Fatal(err)
		}
		golden.Check(t, name, out.String())
	}
}

func offlineStatus() network.Status {
	s := someStatus()
	s.Ready, s.Source = false, "the kernel, /var/lib/weft and /run/flannel/subnet.env"
	s.Reasons = []string{"weftd doesn't answer: pods' packets go on, and no change of the cluster is followed"}
	s.Kernel = &network.KernelStatus{Links: []string{"flannel.1 up, MTU 1450"}, FDB: 2, Neighs: 2, Routes: 2, Chains: 6}
	return s
}

func somePeers() []network.Peer {
	return []network.Peer{
		{
			Lease: "10.42.2.0-24&fd00:42:0:2::-64", Node: "192.168.77.2", Since: now.Add(-26 * time.Hour),
			Paths: []network.PeerPath{
				{
					Subnet: "10.42.2.0/24", Public: "192.168.77.2", VTEP: "10.42.2.0", MAC: "02:00:00:00:00:02",
					Way: "tunnel", Dev: "flannel.1", Probe: "ok", RTT: 0.213,
				},
				{
					Subnet: "10.42.2.0/24", Public: "192.168.77.2", Way: "tunnel", Dev: "flannel.1",
					Probe: "overlay-down", ProbeSince: now.Add(-3 * time.Minute), Loss: 0.25,
				},
				{Subnet: "fd00:42:0:2::/64", Public: "fd77::2", Way: "direct", Dev: "eth0"},
			},
		},
		{Lease: "10.42.9.0-24", Node: "192.0.2.9", Reason: "VtepMAC is multicast"},
	}
}

func TestPeersText(t *testing.T) {
	for name, peers := range map[string][]network.Peer{"peers": somePeers(), "peers-none": {}} {
		var out bytes.Buffer
		if err := printPeers(&out, peers, now); err != nil {
			t.Fatal(err)
		}
		golden.Check(t, name, out.String())
	}
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59*time.Second + 1: "59s", time.Minute: "1m", 59 * time.Minute: "59m",
		time.Hour: "1h0m", 23*time.Hour + 12*time.Minute + 3*time.Second: "23h12m", 47 * time.Hour: "47h0m",
		50 * time.Hour: "2d", 400 * 24 * time.Hour: "400d",
	} {
		if have := span(d); have != want {
			t.Errorf("%s is %q, want %q", d, have, want)
		}
	}
}

func TestCleanupText(t *testing.T) {
	report := network.CleanupReport{
		DryRun: true,
		Removed: []network.CleanupItem{
			{Kind: "route", Name: "10.42.2.0/24 via 192.168.77.2 dev eth0"},
			{Kind: "link", Name: "flannel.1 mtu 1450", Note: "with 3 FDB entries, 3 neighbours, 3 routes"},
		},
		Kept: []network.CleanupItem{{Kind: "directory", Name: "/var/lib/weft", Note: "has more in it: etcd"}},
	}
	failed := network.CleanupReport{
		Failed: []network.CleanupItem{{Kind: "link", Name: "flannel.1", Note: "not permitted"}},
	}
	for name, r := range map[string]network.CleanupReport{
		"cleanup-dry": report, "cleanup-failed": failed, "cleanup-nothing": {},
	} {
		var out bytes.Buffer
		if err := printCleanup(&out, r); err != nil {
			t.Fatal(err)
		}
		golden.Check(t, name, out.String())
	}
}

func TestLeasesText(t *testing.T) {
	s := subnet.Snapshot{
		Leases: []subnet.Lease{{ID: "10.42.1.0-24&fd00:42:0:1::-64", Backend: "vxlan", Shares: []subnet.Share{
			{
				Subnet: netip.MustParsePrefix("10.42.1.0/24"), Public: netip.MustParseAddr("192.168.77.1"),
				Data: []byte(`{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}`),
			},
			{Subnet: netip.MustParsePrefix("fd00:42:0:1::/64"), Public: netip.MustParseAddr("fd77::1")},
		}}},
		Malformed: []subnet.Skipped{{ID: "what-ever", Field: "key", Reason: "is no subnet"}},
	}
	var err error
	if s.Config, err = subnet.ParseConfig([]byte(
		`{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:42::/48"}`)); err != nil {
		t.Fatal(err)
	}
	for i, id := range []string{"10.42.2.0-24", "10.42.2.128-25"} {
		s.Leases = append(s.Leases, subnet.Lease{
			ID: id, Backend: "vxlan", Created: int64(i), Shares: []subnet.Share{{
				Subnet: netip.MustParsePrefix(strings.Replace(id, "-", "/", 1)),
				Public: netip.MustParseAddr("192.168.77.2").Next(),
				Data:   []byte(`{"VNI":1,"VtepMAC":"02:00:00:00:00:02"}`),
			}},
		})
	}
	rows := leaseRows(s, map[string]etcd.Life{
		"10.42.1.0-24&fd00:42:0:1::-64": {Renewed: now.Add(-48 * time.Minute), Expires: now.Add(23*time.Hour + 12*time.Minute)},
	})
	var out bytes.Buffer
	if err := printLeases(&out, rows, s.Malformed, false, now); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "leases", out.String())
}

// A weftd that is stopped takes the question, and does not answer.
func TestHangingDaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	client := clientOf(socket, 0)
	client.Transport.(*http.Transport).ResponseHeaderTimeout = 50 * time.Millisecond
	if _, err := get(t.Context(), client, socket, "/v1/status"); !errors.Is(err, errHangs) || !away(err) {
		t.Errorf("have %v", err)
	}
}

// daemon serves canned replies on a socket as weftd does.
func daemon(t *testing.T, replies map[string]any) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "w") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			reply, ok := replies[r.URL.Path]
			if !ok {
				http.Error(w, "no such page", http.StatusNotFound)
				return
			}
			_ = json.NewEncoder(w).Encode(reply)
		})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}

func weftctl(args ...string) (string, error) {
	var out bytes.Buffer
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.Execute()
	return out.String(), err
}

func TestCommands(t *testing.T) {
	right := daemon(t, map[string]any{
		"/v1/status": someStatus(), "/v1/plan": network.PlanReply{}, "/v1/peers": somePeers(),
		"/v1/events": events.Event{Seq: 7, Time: now, Kind: events.PeerCame, Subject: "10.42.2.0-24", Detail: "192.168.77.2"},
	})
	drifted := daemon(t, map[string]any{"/v1/plan": network.PlanReply{
		Ops:       []string{"+ route 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink"},
		Conflicts: []string{"link flannel.1: taken"},
	}})
	broken := daemon(t, nil)
	for name, c := range map[string]struct {
		args []string
		out  string // part of what is printed
		err  string // part of the error; "" for none
	}{
		"status":                   {[]string{"status", "--socket", right}, "10.42.1.0/24", ""},
		"status as JSON":           {[]string{"status", "--socket", right, "-o", "json"}, `"lease": "10.42.1.0-24"`, ""},
		"plan with nothing to do":  {[]string{"plan", "--socket", right}, "nothing to do", ""},
		"plan with drift":          {[]string{"plan", "--socket", drifted}, "+ route 10.42.2.0/24", "not as wanted"},
		"plan names conflicts":     {[]string{"plan", "--socket", drifted}, "! link flannel.1: taken", "not as wanted"},
		"plan with drift, as JSON": {[]string{"plan", "--socket", drifted, "-o", "json"}, `"conflicts"`, "not as wanted"},
		"diff is plan":             {[]string{"diff", "--socket", drifted}, "+ route 10.42.2.0/24", "not as wanted"},
		"plan as YAML":             {[]string{"plan", "--socket", right, "-o", "yaml"}, "ops: null\nconflicts: null\n", ""},
		"status as YAML":           {[]string{"status", "--socket", right, "-o", "yaml"}, "node:\n  lease: 10.42.1.0-24\n", ""},
		"peers":                    {[]string{"peers", "--socket", right}, "02:00:00:00:00:02", ""},
		"peers as JSON":            {[]string{"peers", "--socket", right, "-o", "json"}, `"way": "tunnel"`, ""},
		"events":                   {[]string{"events", "--socket", right}, ".000  peer-came 10.42.2.0-24: 192.168.77.2\n", ""},
		"events as JSON lines":     {[]string{"events", "--socket", right, "-o", "json"}, `{"seq":7,`, ""},
		"events as YAML":           {[]string{"events", "--socket", right, "-o", "yaml"}, "- seq: 7\n", ""},
		"events of no daemon":      {[]string{"events", "-f", "--socket", "/nowhere/s"}, "", "is it running?"},
		"leases of no API server": {
			[]string{"leases", "--kube-subnet-mgr", "--kube-api-url", "http://127.0.0.1:1"}, "",
			"the API server does not answer; is it up",
		},
		"peers of no daemon":   {[]string{"peers", "--socket", "/nowhere/s"}, "", "is it running?"},
		"a shell's completion": {[]string{"completion", "bash"}, "bash completion", ""},
		"what -o may be":       {[]string{"__complete", "status", "-o", ""}, "table\njson\nyaml\n", ""},
		"no daemon, and nothing of it": {
			[]string{"status", "--socket", "/nowhere/s", "--state-dir", "/nowhere", "--subnet-file", "/nowhere/f"},
			"", "without it nothing can be told",
		},
		"a daemon that is troubled": {[]string{"plan", "--socket", broken}, "", "no such page"},
		"unknown output":            {[]string{"status", "-o", "xml"}, "", `"xml": use table, json or yaml`},
		"version":                   {[]string{"version"}, "go1.", ""},
		"a bad configuration": {
			[]string{"config", "set", `{"Network":"10.42.0.0/33"}`}, "", "nothing was written",
		},
		"a backend that nobody has": {
			[]string{"config", "set", `{"Network":"10.42.0.0/16","Backend":{"Type":"udp"}}`}, "", "use vxlan",
		},
		"a backend's bad option": {
			[]string{"config", "set", `{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan","VNI":0}}`}, "", "VNI",
		},
		"no configuration": {[]string{"config", "set"}, "", "1 arg"},
		"cleanup beside a daemon": {
			[]string{"cleanup", "--socket", right, "--state-dir", "/nowhere", "--subnet-file", "/nowhere/s"},
			"", "stop it first",
		},
		"cleanup of what is no network": {[]string{"cleanup", "--config", "10.42.0.0/16"}, "", "--config"},
		"etcd away": {
			[]string{"leases", "--etcd-endpoints", "http://127.0.0.1:1", "--timeout", "300ms"}, "", "127.0.0.1:1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := weftctl(c.args...)
			if !strings.Contains(out, c.out) {
				t.Errorf("prints %q, want %q in it", out, c.out)
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}
