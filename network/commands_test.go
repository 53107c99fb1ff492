package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/backend/extension"
	"github.com/weftnet/weft/pkg/commands"
	"github.com/weftnet/weft/pkg/commands/runner"
	"github.com/weftnet/weft/subnet"
)

// programs is a host with one program, which keeps a list of what it was told.
type programs struct {
	mu    sync.Mutex
	ran   []string
	fails map[string]bool
}

func (p *programs) exec(_ context.Context, c commands.Command) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := c.String()
	if c.Stdin != "" {
		text += " < " + c.Stdin
	}
	p.ran = append(p.ran, text)
	if p.fails[text] {
		return "", errors.New("exit status 1")
	}
	return "output of " + c.Argv[0], nil
}

func (p *programs) took() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.Sort(p.ran)
	text := strings.Join(p.ran, "\n")
	p.ran = nil
	return text
}

func (p *programs) fail(text string, is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fails[text] = is
}

const extended = `{"Type":"extension", "PreStartupCommand":"pre", "PostStartupCommand":"post $SUBNET",
	"SubnetAddCommand":"add $SUBNET $PUBLIC_IP", "SubnetRemoveCommand":"del $SUBNET"}`

// withPrograms is a node with the backend extension.
func withPrograms(t *testing.T, f func(*bench, *programs)) {
	t.Helper()
	inBubble(t, func(b *bench) {
		p := &programs{fails: map[string]bool{}}
		b.tune = func(o *Options) {
			allBackends(o)
			o.Backends["extension"] = extension.New()
			var err error
			o.Commands, err = runner.New(runner.Options{Dir: CommandsDir(o.StateDir), Boot: "boot", Exec: p.exec})
			if err != nil {
				b.t.Error(err)
			}
		}
		b.server.SetConfig(configOf(extended))
		f(b, p)
	})
}

func (b *bench) extended(number int, data string) {
	l := subnet.Lease{ID: fmt.Sprintf("10.42.%d.0-24", number), Backend: "extension", Shares: []subnet.Share{{
		Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(number)}), 24),
		Public: netip.AddrFrom4([4]byte{192, 168, 77, byte(number)}), Data: []byte(data),
	}}}
	b.server.Put(l)
}

func (p *programs) want(t *testing.T, what string, want ...string) {
	t.Helper()
	if have := p.took(); have != strings.Join(want, "\n") {
		t.Errorf("%s: ran\n%s\nwant\n%s", what, have, strings.Join(want, "\n"))
	}
}

func TestExtension(t *testing.T) {
	withPrograms(t, func(b *bench, p *programs) {
		b.extended(2, `"two"`)
		b.extended(3, `{"VNI":1}`)
		b.peerAt("vxlan", 4, "192.168.77.4")
		b.start()
		b.settle(5 * time.Second)
		b.ready(true, "")
		own := b.node.Status().Node.Subnets[0]
		p.want(t, "a start", "add 10.42.2.0/24 192.168.77.2 < two", "post "+own, "pre")
		if s := b.node.Status(); s.Peers != 1 || len(s.Skipped) != 2 {
			t.Errorf("%+v", s)
		}
		if data := b.node.view.lease.Shares[0].Data; string(data) != `"output of pre"` {
			t.Errorf("announced: %s", data)
		}
		b.stop()
		b.start()
		b.settle(time.Minute)
		b.ready(true, "")
		p.want(t, "a restart")

		b.extended(2, `"new"`)
		b.extended(5, "")
		b.settle(time.Minute)
		p.want(t, "another and a changed one", "add 10.42.2.0/24 192.168.77.2 < new", "add 10.42.5.0/24 192.168.77.5",
			"del 10.42.2.0/24 < two")
		b.server.Delete("10.42.5.0-24")
		b.settle(time.Minute)
		p.want(t, "one gone", "del 10.42.5.0/24")

		b.server.SetConfig([]byte(config1))
		b.settle(time.Minute)
		b.ready(true, "")
		p.want(t, "another backend", "del 10.42.2.0/24 < new")
		b.stop()
	})
}

func TestCommandsThatFail(t *testing.T) {
	withPrograms(t, func(b *bench, p *programs) {
		p.fail("pre", true)
		p.fail("add 10.42.2.0/24 192.168.77.2", true)
		b.extended(2, "")
		b.extended(3, "")
		b.start()
		b.settle(time.Minute)
		b.ready(false, "PreStartupCommand: pre: exit status 1")
		if b.node.Status().Node.Lease != "" {
			t.Error("a lease before the first command")
		}
		p.fail("pre", false)
		b.settle(2 * time.Minute)
		b.ready(true, "")
		s := b.node.Status()
		want := subnet.Skipped{
			ID: "10.42.2.0-24", Field: "SubnetAddCommand", Reason: "add 10.42.2.0/24 192.168.77.2: exit status 1",
		}
		if s.Peers != 1 || len(s.Skipped) != 1 || s.Skipped[0] != want {
			t.Errorf("%+v", s)
		}
		p.fail("add 10.42.2.0/24 192.168.77.2", false)
		b.settle(2 * time.Minute)
		if s := b.node.Status(); s.Peers != 2 || len(s.Skipped) != 0 {
			t.Errorf("%+v", s)
		}
		b.stop()
	})
}

func TestPostStartupCommandFails(t *testing.T) {
	withPrograms(t, func(b *bench, p *programs) {
		b.server.SetConfig(configOf(`{"Type":"extension","PostStartupCommand":"post","SubnetAddCommand":"add $SUBNET"}`))
		p.fail("post", true)
		b.extended(2, "")
		b.start()
		b.settle(time.Minute)
		b.ready(false, "commands: PostStartupCommand: post: exit status 1")
		if ran := p.took(); strings.Contains(ran, "add") {
			t.Errorf("a peer before this node:\n%s", ran)
		}
		p.fail("post", false)
		b.settle(2 * time.Minute)
		b.ready(true, "")
		p.want(t, "then", "add 10.42.2.0/24", "post")
		b.stop()
	})
}

// Cleanup runs nothing, says what was done and how to take it back, and leaves
// no record.
func TestCleanupListsCommands(t *testing.T) {
	boot, err := runner.BootID()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := &programs{fails: map[string]bool{}}
	r, err := runner.New(runner.Options{Dir: CommandsDir(dir), Boot: boot, Exec: p.exec})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, done := make(chan string, 1), make(chan error, 1)
	go func() { done <- r.Run(ctx, func(name string, _ *commands.Failure) { ended <- name }) }()
	task := commands.Task{
		Do: commands.Command{Argv: []string{"add", "x"}}, Undo: commands.Command{Argv: []string{"del", "x"}},
	}
	r.Want(map[string]commands.Task{taskPeer + "a": task}, true)
	<-ended
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	p.took()
	var report CleanupReport
	Cleanup{StateDir: dir, SubnetFile: filepath.Join(dir, "none")}.remove(&report, memories{}, "")
	p.want(t, "cleanup")
	want := CleanupItem{"command", "add x", "ran for peer a; take it back with: del x"}
	if len(report.Kept) != 1 || report.Kept[0] != want || len(report.Failed) != 0 {
		t.Errorf("%+v", report)
	}
	if left, _ := filepath.Glob(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
