package extension_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/backend/backendtest"
	"github.com/weftnet/weft/backend/extension"
	"github.com/weftnet/weft/pkg/commands"
	"github.com/weftnet/weft/subnet"
)

const all = `{"Type":"extension", "PreStartupCommand":"hello --name 'a b'", "PostStartupCommand":"ours $SUBNET",
	"SubnetAddCommand":"ip route add $SUBNET via ${PUBLIC_IP}", "SubnetRemoveCommand":"ip route del $SUBNET via $PUBLIC_IP"}`

func host(options string, families ...string) backend.Host {
	h := backend.Host{
		Config: subnet.Config{Backend: "extension", BackendOptions: json.RawMessage(options)},
		Uplink: backend.Uplink{Iface: "eth0", MTU: 1500},
		Output: "02:00:00:00:00:01",
	}
	for _, f := range families {
		s := share(f, 1)
		h.Config.Networks = append(h.Config.Networks, subnet.Network{Prefix: netip.MustParsePrefix(f)})
		h.Uplink.Local, h.Uplink.Public = append(h.Uplink.Local, s.Public), append(h.Uplink.Public, s.Public)
		h.Lease.Shares = append(h.Lease.Shares, s)
	}
	h.Lease.ID = "10.42.1.0-24"
	return h
}

const (
	net4 = "10.42.0.0/16"
	net6 = "fd42::/48"
)

func share(family string, number int) subnet.Share {
	if family == net6 {
		return subnet.Share{
			Subnet: netip.MustParsePrefix(fmt.Sprintf("fd42:0:0:%d::/64", number)),
			Public: netip.MustParseAddr(fmt.Sprintf("fd77::%d", number)),
		}
	}
	return subnet.Share{
		Subnet: netip.MustParsePrefix(fmt.Sprintf("10.42.%d.0/24", number)),
		Public: netip.MustParseAddr(fmt.Sprintf("192.168.77.%d", number)),
	}
}

func peer(number int, data string, families ...string) subnet.Lease {
	l := subnet.Lease{ID: fmt.Sprintf("10.42.%d.0-24", number), Backend: "extension"}
	for _, f := range families {
		s := share(f, number)
		if data != "" {
			s.Data = json.RawMessage(data)
		}
		l.Shares = append(l.Shares, s)
	}
	return l
}

func TestLaws(t *testing.T) {
	crossed := peer(8, "", net4)
	crossed.Shares[0].Public = netip.MustParseAddr("fd77::8")
	backendtest.Run(t, extension.New(),
		backendtest.Case{
			Name:  "dual stack",
			Host:  host(strings.Replace(all, "ours", "ours $IPV6SUBNET $IPV6_NETWORK $NETWORK", 1), net4, net6),
			Peers: []subnet.Lease{peer(2, `"mac"`, net4, net6), peer(3, "", net4, net6), peer(4, `""`, net4, net6)},
			Bad: []backendtest.Bad{
				{Name: "no subnet", Lease: subnet.Lease{ID: "x"}, Field: "subnet"},
				{Name: "a subnet that is none", Lease: subnet.Lease{ID: "x", Shares: make([]subnet.Share, 1)}, Field: "subnet"},
				{Name: "an address of another family", Lease: crossed, Field: "public address"},
				{Name: "data that is no string", Lease: peer(9, `{"VNI":1}`, net4, net6), Field: "BackendData"},
			},
		},
		backendtest.Case{
			Name:  "IPv6",
			Host:  host(`{"SubnetAddCommand":"add $IPV6SUBNET $PUBLIC_IPV6"}`, net6),
			Peers: []subnet.Lease{peer(2, `"mac"`, net6), peer(3, "", net6), peer(4, "", net6)},
		},
	)
}

func TestTasks(t *testing.T) {
	b, h := extension.New(), host(all, net4)
	startup, err := b.Startup(h.Config)
	hello := commands.Task{Do: commands.Command{Argv: []string{"hello", "--name", "a b"}}}
	if d := cmp.Diff(hello, startup); d != "" || err != nil {
		t.Error(d, err)
	}
	ours, err := b.Ours(h)
	want := commands.Command{
		Argv: []string{"ours", "10.42.1.0/24"},
		Env:  []string{"NETWORK=10.42.0.0/16", "PUBLIC_IP=192.168.77.1", "SUBNET=10.42.1.0/24"},
	}
	if d := cmp.Diff(want, ours.Do); d != "" || err != nil {
		t.Error(d, err)
	}
	const said = "the peer's"
	task, err := b.For(h, peer(2, quoted(said), net4))
	env := []string{"PUBLIC_IP=192.168.77.2", "SUBNET=10.42.2.0/24"}
	wanted := commands.Task{
		Do:   commands.Command{Argv: strings.Fields("ip route add 10.42.2.0/24 via 192.168.77.2"), Env: env, Stdin: said},
		Undo: commands.Command{Argv: strings.Fields("ip route del 10.42.2.0/24 via 192.168.77.2"), Env: env, Stdin: said},
	}
	if d := cmp.Diff(wanted, task); d != "" || err != nil {
		t.Error(d, err)
	}
	shares, err := b.Announce(h, nil)
	if err != nil || len(shares) != 1 || string(shares[0].Data) != `"02:00:00:00:00:01"` {
		t.Errorf("announced %+v, %v", shares, err)
	}
	h.Output = ""
	if shares, _ := b.Announce(h, nil); shares[0].Data != nil {
		t.Errorf("announced %s without output", shares[0].Data)
	}
}

func TestWords(t *testing.T) {
	for text, want := range map[string][]string{
		`ip route add $SUBNET via $PUBLIC_IP`:    {"ip", "route", "add", "10.42.1.0/24", "via", "192.168.77.1"},
		`a  "b $SUBNET"	'$SUBNET' ''`:            {"a", "b 10.42.1.0/24", "$SUBNET", ""},
		`a${SUBNET}b \$SUBNET \"`:                {"a10.42.1.0/24b", "$SUBNET", `"`},
		`sh -c 'read x; echo "$x" | tee /run/x'`: {"sh", "-c", `read x; echo "$x" | tee /run/x`},
	} {
		h := host(strings.NewReplacer("TEXT", quoted(text)).Replace(`{"PostStartupCommand":TEXT}`), net4)
		task, err := extension.New().Ours(h)
		if d := cmp.Diff(want, task.Do.Argv); d != "" || err != nil {
			t.Errorf("%s: %v %s", text, err, d)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ options, want string }{
		{`{"SubnetAddCommand":"a; b"}`, `Backend.SubnetAddCommand has ';' in it, which is for a shell: weft runs a program without one`},
		{"{\"SubnetAddCommand\":\"a \\\"`b`\\\"\"}", "has '`' in it, which is for a shell"},
		{`{"SubnetAddCommand":"a > b"}`, `has '>' in it`},
		{`{"SubnetRemoveCommand":"a 'b"}`, `Backend.SubnetRemoveCommand has no closing '`},
		{`{"PostStartupCommand":"''\\"}`, `Backend.PostStartupCommand ends in a backslash`},
		{`{"SubnetAddCommand":"a $NETWORK"}`, `has $NETWORK in it, which it does not get: there are PUBLIC_IP, SUBNET`},
		{`{"SubnetAddCommand":"a $IPV6SUBNET"}`, `has $IPV6SUBNET in it, which it does not get: there are PUBLIC_IP, SUBNET`},
		{`{"PreStartupCommand":"a $SUBNET"}`, `has $SUBNET in it, which it does not get: there are no variables before the lease`},
		{`{"PostStartupCommand":"a ${SUBNET"}`, `has $ in it`},
		{`{"SubnetAddCommand":["a"]}`, `Backend.SubnetAddCommand is ["a"]: write a command as one string`},
	} {
		_, err := extension.New().Base(host(c.options, net4))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.options, err, c.want)
		}
	}
	warnings := extension.New().Warnings(host(`{"Type":"extension","VNI":1,"subnetaddcommand":"a"}`, net4).Config)
	if d := cmp.Diff([]string{"Backend.VNI means nothing to extension"}, warnings); d != "" {
		t.Error(d)
	}
}

// FuzzWords: no text makes it panic, and values never make a word more.
func FuzzWords(f *testing.F) {
	f.Add(`ip route add $SUBNET via "${PUBLIC_IP}" \' 'x y'`)
	f.Fuzz(func(t *testing.T, text string) {
		options := `{"PostStartupCommand":` + quoted(text) + `}`
		task, err := extension.New().Ours(host(options, net4))
		again, errAgain := extension.New().Ours(host(options, net4))
		if (err == nil) != (errAgain == nil) || !cmp.Equal(task, again) {
			t.Error("two results for one text")
		}
	})
}

func quoted(text string) string {
	raw, _ := json.Marshal(text) // strings always encode
	return string(raw)
}
