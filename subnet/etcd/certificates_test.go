package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/weftnet/weft/pkg/tlstest"
	"github.com/weftnet/weft/subnet/etcd/embedded"
)

// Certificates that don't do are named, and once the files are mended the same
// Store goes on. A server that refuses ours may close before its reason is
// read: then it is what the log says of the file that tells.
func TestBadCertificates(t *testing.T) {
	past, here := time.Now().Add(-time.Hour), []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	server := tlstest.Cert{Name: "server", Addrs: here}
	for name, c := range map[string]struct {
		server, client tlstest.Cert
		clients        bool // must show a certificate
		strangeServer  bool // its certificate is of another authority
		strangeClient  bool // ours is
		want, logged   string
	}{
		"the server's has expired":             {server: tlstest.Cert{Addrs: here, Until: past}, want: "expired"},
		"the server's is for another name":     {server: tlstest.Cert{}, want: "certificate for 127.0.0.1"},
		"the server's is of another authority": {server: server, strangeServer: true, want: "unknown authority"},
		"ours has expired": {
			server: server, client: tlstest.Cert{Until: past}, clients: true,
			want: "refuses the client certificate", logged: "was valid until",
		},
		"ours is of another authority": {
			server: server, strangeClient: true, clients: true, want: "refuses the client certificate",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, dir := startGuard(t), t.TempDir()
			ca, stranger := tlstest.New(t, dir, "ca"), tlstest.New(t, t.TempDir(), "other")
			of := func(strange bool) *tlstest.CA {
				if strange {
					return stranger
				}
				return ca
			}
			log, hook := logtest.NewNullLogger()
			o := Options{
				Endpoints: []string{strings.Replace(g.url(), "localhost", "127.0.0.1", 1)}, Log: log,
				CAFile: ca.File, CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
			}
			g.identifyAs(t, of(c.strangeServer), c.server)
			if c.clients {
				g.ask(t, ca)
			}
			of(c.strangeClient).Issue(o.CertFile, o.KeyFile, c.client)
			s := open(t, o)
			refusedWith(t, s, c.want)
			if text := logged(t, hook); c.logged == "" && text != "" || !strings.Contains(text, c.logged) {
				t.Errorf("want %q in the log, have %q", c.logged, text)
			}
			g.identifyAs(t, ca, server)
			if c.clients {
				g.ask(t, ca)
			}
			ca.Issue(o.CertFile, o.KeyFile, tlstest.Cert{Name: "mended"})
			if err := leasesWithin(t.Context(), s, patience); err != nil {
				t.Errorf("mended, and still: %v", err)
			}
			if c.clients && g.client() != "mended" {
				t.Errorf("the server saw %q", g.client())
			}
		})
	}
}

// The embedded server asks clients for certificates: who shows none, or another
// authority's, is told what is perhaps wrong and what to do.
func TestRefusedByEtcdItself(t *testing.T) {
	dir := t.TempDir()
	ca, stranger := tlstest.New(t, dir, "ca"), tlstest.New(t, t.TempDir(), "other")
	issue := func(ca *tlstest.CA, name string) (cert, key string) {
		cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
		ca.Issue(cert, key, tlstest.Cert{Name: name, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
		return cert, key
	}
	server := embedded.Options{Dir: filepath.Join(dir, "etcd"), Listen: "https://127.0.0.1:0", CAFile: ca.File}
	server.CertFile, server.KeyFile = issue(ca, "server")
	e, err := embedded.Start(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	of := Options{Endpoints: []string{e.Endpoint()}, CAFile: ca.File}
	for want, issuer := range map[string]*tlstest.CA{
		"none is given; set --etcd-certfile": nil, "refuses the client certificate " + dir: stranger, "": ca,
	} {
		o := of
		if issuer != nil {
			o.CertFile, o.KeyFile = issue(issuer, "client")
		}
		s := open(t, o)
		if want != "" {
			refusedWith(t, s, want)
		} else if err := leasesWithin(t.Context(), s, patience); err != nil {
			t.Error(err)
		}
	}
}

// refusedWith asks for the leases until the error is the one that is wanted: on a busy
// machine the first may only say that time is up.
func refusedWith(t *testing.T, s *Store, want string) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if err = leasesWithin(t.Context(), s, time.Second); err == nil {
			t.Fatalf("want an error with %q, have none", want)
		}
		if strings.Contains(err.Error(), want) {
			return
		}
	}
	t.Fatalf("want an error with %q, have %v", want, err)
}

// logged is all that a log was told.
func logged(t *testing.T, hook *logtest.Hook) (all string) {
	t.Helper()
	for _, e := range hook.AllEntries() {
		line, err := e.String()
		if err != nil {
			t.Fatal(err)
		}
		all += line
	}
	return all
}

// leasesWithin asks for the leases until there is an answer.
func leasesWithin(ctx context.Context, s *Store, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		_, err := s.Leases(ctx)
		if err == nil {
			return nil
		}
		if last == nil || !errors.Is(err, ctx.Err()) {
			last = err
		}
	}
	return last
}

// Both sides' certificates are replaced again and again, and each time all
// connections are cut, while eight ask without a pause: nobody's question fails.
func TestCertificatesAreReplacedUnderLoad(t *testing.T) {
	g, dir := startGuard(t), t.TempDir()
	ca := tlstest.New(t, dir, "ca")
	o := Options{
		Endpoints: []string{g.url()}, CAFile: ca.File,
		CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
	}
	renew := func(name string) {
		g.identify(t, ca, true)
		ca.Issue(o.CertFile, o.KeyFile, tlstest.Cert{Name: name})
	}
	renew("0")
	s := open(t, o)
	done := make(chan struct{})
	var asked atomic.Int64
	var wg sync.WaitGroup
	defer func() {
		close(done)
		wg.Wait()
		t.Logf("%d questions", asked.Load())
	}()
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				_, err := s.Leases(ctx)
				cancel()
				if err != nil {
					t.Error(err)
					return
				}
				asked.Add(1)
			}
		})
	}
	for n := range 20 {
		name, before := fmt.Sprint(n+1), asked.Load()
		renew(name)
		var cut time.Time
		for end := time.Now().Add(patience); g.client() != name || asked.Load() == before; <-time.After(time.Millisecond) {
			if time.Since(cut) > time.Second { // one that was just being made with the certificate of before is not cut
				g.set(true)
				g.set(false)
				cut = time.Now()
			}
			if time.Now().After(end) {
				t.Fatalf("certificate %s: the server last saw %s, %d answers since", name, g.client(), asked.Load()-before)
			}
		}
	}
}

// Who may read what, is said at the start; that a password is in the file, and
// which, is not.
func TestSecretsThatEverybodyMayReadAreWarnedOf(t *testing.T) {
	dir := t.TempDir()
	ca := tlstest.New(t, dir, "ca")
	o := Options{
		Endpoints: []string{"https://127.0.0.1:1"}, CAFile: ca.File, Username: "node",
		CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
		PasswordFile: filepath.Join(dir, "password"),
	}
	ca.Issue(o.CertFile, o.KeyFile, tlstest.Cert{Name: "node"})
	if err := os.WriteFile(o.PasswordFile, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key, password os.FileMode
		want          []string // in warnings
	}{
		"for us alone":          {0o600, 0o600, nil},
		"for our group":         {0o640, 0o640, nil},
		"all may read the key":  {0o644, 0o600, []string{o.KeyFile}},
		"all may read the word": {0o600, 0o644, []string{o.PasswordFile}},
		"all may read both":     {0o604, 0o666, []string{o.PasswordFile, o.KeyFile}},
	} {
		t.Run(name, func(t *testing.T) {
			for file, mode := range map[string]os.FileMode{o.KeyFile: c.key, o.PasswordFile: c.password} {
				if err := os.Chmod(file, mode); err != nil {
					t.Fatal(err)
				}
			}
			log, hook := logtest.NewNullLogger()
			o := o
			o.Log = log
			open(t, o)
			text := logged(t, hook)
			if have := len(hook.AllEntries()); have != len(c.want) || strings.Contains(text, "sesame") {
				t.Errorf("want %d warnings, have %q", len(c.want), text)
			}
			for _, file := range c.want {
				if !strings.Contains(text, "chmod o-rwx "+file) {
					t.Errorf("%s is not warned of: %q", file, text)
				}
			}
		})
	}
}
