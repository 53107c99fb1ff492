package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/dataplane/linux/probe"
	"github.com/weftnet/weft/pkg/doctor"
	"github.com/weftnet/weft/pkg/golden"
	"github.com/weftnet/weft/pkg/trace"
)

func TestDoctorText(t *testing.T) {
	results := []doctor.Result{
		{Check: "kernel", Level: doctor.OK},
		{Check: "mtu", Level: doctor.Fail, Findings: []doctor.Finding{
			{Level: doctor.Fail, Cause: "large packets are lost", Evidence: "peer 192.168.77.2: 1450 bytes", Mend: "Backend.MTU"},
		}},
		{Check: "clock-skew", Level: doctor.Warn, Findings: []doctor.Finding{
			{Level: doctor.Warn, Cause: "the clocks differ", Evidence: "7s behind ours", Mend: "timedatectl"},
		}},
	}
	for name, all := range map[string]bool{"doctor": false, "doctor-all": true} {
		var out bytes.Buffer
		if err := printDoctor(&out, results, all); err != nil {
			t.Fatal(err)
		}
		golden.Check(t, name, out.String())
	}
}

func TestTraceText(t *testing.T) {
	path := trace.Path{
		Src: netip.MustParseAddr("10.42.1.2"), Dst: netip.MustParseAddr("10.42.2.3"), Proto: "tcp", Port: 80,
		End:  "node 192.168.77.2",
		Hops: []trace.Hop{{Where: "pod", What: "route", Entry: "default via 10.42.1.1 dev eth0"}},
	}
	seen := []probe.Sight{{Place: "came in from the pod", Packets: 1}, {Place: "passed the forward rules"}}
	for name, live := range map[string]probe.Report{
		"trace-answered": {Answer: "reply", RTT: 210 * time.Microsecond, Seen: seen, Last: "came in from the pod"},
		"trace-dropped":  {Seen: seen, Last: "came in from the pod", Dropped: "the rule with handle 2 of chain x f"},
		"trace-lost":     {Seen: seen, Last: "came in from the pod"},
		"trace-unseen":   {},
	} {
		var out bytes.Buffer
		printTrace(&out, traced{Path: path, Live: &live}, "/run/netns/a")
		golden.Check(t, name, out.String())
	}
}

func TestMistakesOfTraceAndDoctor(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no destination":     {[]string{"trace", "node"}, "2 arg"},
		"a name":             {[]string{"trace", "node", "web.example.org"}, "want an address"},
		"a port of icmp":     {[]string{"trace", "node", "10.42.2.3", "--proto", "icmp", "--port", "1"}, "icmp has none"},
		"a protocol unknown": {[]string{"trace", "node", "10.42.2.3", "--proto", "gre"}, "tcp, udp or icmp"},
		"a check unknown":    {[]string{"doctor", "--check", "weather"}, "there are kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := weftctl(c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
