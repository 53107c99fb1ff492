package embedded

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/weftnet/weft/pkg/tlsfile"
	"github.com/weftnet/weft/pkg/tlstest"
)

var loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1")}

// issue gives options with a certificate by ca.
func issue(ca *tlstest.CA, dir, name string) Options {
	o := Options{
		Name: name, CAFile: ca.File, CertFile: filepath.Join(dir, name+".pem"), KeyFile: filepath.Join(dir, name+".key"),
	}
	ca.Issue(o.CertFile, o.KeyFile, tlstest.Cert{Name: name, Addrs: loopback})
	return o
}

func secureClient(t *testing.T, files tlsfile.Files, endpoints ...string) *clientv3.Client {
	t.Helper()
	var secure *tls.Config
	if strings.HasPrefix(endpoints[0], "https") {
		r, err := tlsfile.Open(files, "the test", func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		secure = r.Config()
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: secure, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestClientsMustShowACertificate(t *testing.T) {
	dir := t.TempDir()
	ca := tlstest.New(t, dir, "ca")
	o := issue(ca, dir, "server")
	o.Dir, o.Listen = filepath.Join(dir, "etcd"), "https://127.0.0.1:0"
	s, err := start(t, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.etcd.Clients) != 1 {
		t.Errorf("listeners: want one, have %d", len(s.etcd.Clients))
	}
	get := func(files tlsfile.Files, patience time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := secureClient(t, files, s.Endpoint()).Get(ctx, "x")
		return err
	}
	const refused, served = 700 * time.Millisecond, 20 * time.Second // who is refused tries on
	if err := get(tlsfile.Files{CA: ca.File}, refused); err == nil {
		t.Error("a client without a certificate was served")
	}
	stranger := issue(tlstest.New(t, dir, "other"), dir, "stranger")
	if err := get(tlsfile.Files{CA: ca.File, Cert: stranger.CertFile, Key: stranger.KeyFile}, refused); err == nil {
		t.Error("a client with another authority's certificate was served")
	}
	if err := get(o.files(), served); err != nil {
		t.Error(err)
	}
}

// Whoever has the server's very certificate needs no authority.
func TestOwnCertificateIsTrust(t *testing.T) {
	dir := t.TempDir()
	o := issue(tlstest.New(t, dir, "ca"), dir, "server")
	o.Dir, o.Listen, o.CAFile = filepath.Join(dir, "etcd"), "127.0.0.1:0", ""
	s, err := start(t, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := secureClient(t, tlsfile.Files{CA: o.CertFile}, s.Endpoint()).Get(t.Context(), "x"); err != nil {
		t.Error(err)
	}
}

// freeAddrs gives addresses that nobody listens on.
func freeAddrs(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out
}

// three gives the options of the members of a cluster.
func three(t *testing.T, secure bool) []Options {
	t.Helper()
	dir, at := t.TempDir(), freeAddrs(t, 6)
	ca := tlstest.New(t, dir, "ca")
	var out []Options
	var peers []string
	for i, name := range []string{"a", "b", "c"} {
		o, scheme := Options{Name: name}, "http"
		if secure {
			o, scheme = issue(ca, dir, name), "https"
		}
		o.Dir, o.Listen = filepath.Join(dir, "etcd-"+name), at[3+i]
		peers = append(peers, fmt.Sprintf("%s=%s://%s", name, scheme, at[i]))
		out = append(out, o)
	}
	for i := range out {
		out[i].Peers = strings.Join(peers, ",")
	}
	return out
}

func TestThreeMembersSurviveTheLossOfOne(t *testing.T) {
	for name, secure := range map[string]bool{"in plain": false, "by TLS": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := three(t, secure)
			var members []*Server
			for _, o := range options {
				s, err := start(t, o)
				if err != nil {
					t.Fatal(err)
				}
				members = append(members, s)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			client := func(i int) *clientv3.Client {
				return secureClient(t, options[i].files(), members[i].Endpoint())
			}
			if _, err := client(0).Put(ctx, "x", "1"); err != nil {
				t.Fatal(err)
			}
			leads := func(s *Server) bool { return s.etcd.Server.Leader() == s.etcd.Server.MemberID() }
			leader := slices.IndexFunc(members, leads)
			if leader < 0 {
				t.Fatal("nobody leads")
			}
			if err := members[leader].Close(); err != nil {
				t.Fatal(err)
			}
			other := (leader + 1) % 3
			if _, err := client(other).Put(ctx, "x", "2"); err != nil {
				t.Fatalf("with one member less: %v", err)
			}
			var err error
			if members[leader], err = start(t, options[leader]); err != nil {
				t.Fatal(err)
			}
			got, err := client(leader).Get(ctx, "x")
			if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "2" {
				t.Errorf("the member that is back says %v, %v", got, err)
			}
		})
	}
}

// A member that never got ready leaves nothing behind: neither its directory's
// lock nor its listeners.
func TestMemberThatWaitsForTheOthersCanBeClosed(t *testing.T) {
	o := three(t, false)[0]
	for range 2 {
		s, err := start(t, o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := client(t, s.Endpoint()).Get(ctx, "x"); err == nil {
			t.Error("a member without a majority answers")
		}
		cancel()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStartThatIsGivenUpLeavesNothingBehind(t *testing.T) {
	o := Options{Dir: t.TempDir(), Listen: freeAddrs(t, 1)[0]}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := Start(ctx, o); err == nil {
		_ = s.Close()
		t.Fatal("it started")
	}
	if _, err := start(t, o); err != nil {
		t.Errorf("the next start: %v", err)
	}
}
