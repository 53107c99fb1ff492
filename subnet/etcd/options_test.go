package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftnet/weft/pkg/tlstest"
	"github.com/weftnet/weft/subnet"
)

func TestNewSaysWhatIsWrong(t *testing.T) {
	good := []string{"http://127.0.0.1:2379"}
	tests := map[string]struct {
		o    Options
		want string
	}{
		"no endpoint":           {Options{}, "no etcd endpoint"},
		"a strange scheme":      {Options{Endpoints: []string{"ftp://x:1"}}, "ftp"},
		"http and https":        {Options{Endpoints: []string{"http://a:1", "https://b:1"}}, "all must be http or all https"},
		"a path":                {Options{Endpoints: []string{"http://a:1/v3"}}, "http://a:1/v3"},
		"no host":               {Options{Endpoints: []string{"http://:2379"}}, "http://:2379"},
		"a key without a cert":  {Options{Endpoints: good, KeyFile: "k"}, "go together"},
		"a CA that isn't there": {Options{Endpoints: good, CAFile: "/nowhere/ca.pem"}, "/nowhere/ca.pem"},
		"a prefix of nothing":   {Options{Endpoints: good, Prefix: "./"}, `"./" names no key`},
		"a TTL of nothing":      {Options{Endpoints: good, TTL: time.Millisecond}, "one second"},
		"a secret in a URL":     {Options{Endpoints: []string{"http://u:sesame@a:1"}}, "own options"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := New(test.o)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("want an error with %q, have %v", test.want, err)
			}
			if strings.Contains(err.Error(), "sesame") {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

// The keys are those that flannel makes, by path.Join.
func TestPrefixes(t *testing.T) {
	for prefix, want := range map[string][2]string{
		"":                      {"/coreos.com/network/config", "/coreos.com/network/subnets/10.42.1.0-24"},
		"/coreos.com/network":   {"/coreos.com/network/config", "/coreos.com/network/subnets/10.42.1.0-24"},
		"/coreos.com/network/":  {"/coreos.com/network/config", "/coreos.com/network/subnets/10.42.1.0-24"},
		"coreos.com/network":    {"coreos.com/network/config", "coreos.com/network/subnets/10.42.1.0-24"},
		"coreos.com//network//": {"coreos.com/network/config", "coreos.com/network/subnets/10.42.1.0-24"},
		"/":                     {"/config", "/subnets/10.42.1.0-24"},
		"blue":                  {"blue/config", "blue/subnets/10.42.1.0-24"},
	} {
		s := mustNew(t, Options{Endpoints: []string{"http://127.0.0.1:1"}, Prefix: prefix})
		if have := [2]string{s.configKey(), s.key("10.42.1.0-24")}; have != want {
			t.Errorf("prefix %q: want %q, have %q", prefix, want, have)
		}
		for _, key := range want {
			if !strings.HasPrefix(key, s.rootKey()) {
				t.Errorf("prefix %q: %s is not below %s, which is watched", prefix, key, s.rootKey())
			}
		}
	}
}

func TestWhenALeaseIsRenewed(t *testing.T) {
	const day = 24 * time.Hour
	for name, test := range map[string]struct{ ttl, margin, due, late time.Duration }{
		"no margin":               {day, 0, 8 * time.Hour, day},
		"flannel's default":       {day, time.Hour, 8 * time.Hour, 23 * time.Hour},
		"a large one comes first": {day, 20 * time.Hour, 2 * time.Hour, 4 * time.Hour},
		"longer than the lease":   {100 * time.Second, time.Hour, 5 * time.Second, 10 * time.Second},
		"flannel's largest":       {day, 1439 * time.Minute, 30 * time.Second, time.Minute},
	} {
		if due, late := plan(test.ttl, test.margin); due != test.due || late != test.late {
			t.Errorf("%s: want %s and %s, have %s and %s", name, test.due, test.late, due, late)
		}
	}
}

// guard stands before the server with a certificate, and asks for that of
// clients if clients is not nil. gRPC speaks HTTP/2 by ALPN only.
type guard struct {
	*proxy
	dir string

	mu   sync.Mutex
	seen string // common name of the last client
}

func startGuard(t *testing.T) *guard {
	t.Helper()
	return &guard{proxy: startProxy(t, endpoint), dir: t.TempDir()}
}

// identify gives the server a certificate by ca; it asks clients for one by
// the same, if so told.
func (g *guard) identify(t *testing.T, ca *tlstest.CA, clients bool) {
	t.Helper()
	g.identifyAs(t, ca, tlstest.Cert{Name: "server"})
	if clients {
		g.ask(t, ca)
	}
}

// identifyAs gives the server a certificate; it asks clients for none.
func (g *guard) identifyAs(t *testing.T, ca *tlstest.CA, as tlstest.Cert) {
	t.Helper()
	cert, key := filepath.Join(g.dir, "server.pem"), filepath.Join(g.dir, "server.key")
	ca.Issue(cert, key, as)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	g.secure(&tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
}

// ask has the server ask clients for a certificate by ca.
func (g *guard) ask(t *testing.T, ca *tlstest.CA) {
	t.Helper()
	raw, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	_, c := g.target()
	c = c.Clone()
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	c.ClientCAs.AppendCertsFromPEM(raw)
	c.VerifyConnection = func(s tls.ConnectionState) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.seen = s.PeerCertificates[0].Subject.CommonName
		return nil
	}
	g.secure(c)
}

func (g *guard) client() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen
}

func (g *guard) url() string {
	_, port, _ := strings.Cut(g.l.Addr().String(), ":")
	return "https://localhost:" + port
}

func TestTLSByAnAuthorityAlone(t *testing.T) {
	g := startGuard(t)
	ca := tlstest.New(t, g.dir, "ca")
	g.identify(t, ca, false)
	s := open(t, Options{Endpoints: []string{g.url()}, CAFile: ca.File})
	if _, err := s.Leases(short(t)); err != nil {
		t.Errorf("with the authority: %v", err)
	}
	// The system's authorities don't know it.
	s = open(t, Options{Endpoints: []string{g.url()}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := s.Leases(ctx); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without: want an error about the certificate, have %v", err)
	}
}

// The authority, the server's certificate and ours are all replaced while a
// watch runs: the next connection uses what the files hold then.
func TestRenewedCertificatesAreUsed(t *testing.T) {
	g, dir := startGuard(t), t.TempDir()
	ca := tlstest.New(t, dir, "ca")
	g.identify(t, ca, true)
	o := Options{
		Endpoints: []string{g.url()}, CAFile: ca.File,
		CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
	}
	ca.Issue(o.CertFile, o.KeyFile, tlstest.Cert{Name: "first"})
	s, admin := open(t, o), raw(t, endpoint)
	w := follow(t, s)
	put(t, admin, s.key("10.42.1.0-24"), `{"PublicIP":"192.0.2.1"}`)
	w.until("the first", hasIDs("10.42.1.0-24"))
	if g.client() != "first" {
		t.Errorf("the server saw %q", g.client())
	}
	g.set(true)
	ca = tlstest.New(t, dir, "ca")
	g.identify(t, ca, true)
	ca.Issue(o.CertFile, o.KeyFile, tlstest.Cert{Name: "second"})
	g.set(false)
	put(t, admin, s.key("10.42.2.0-24"), `{"PublicIP":"192.0.2.2"}`)
	w.until("the second", hasIDs("10.42.1.0-24", "10.42.2.0-24"))
	if g.client() != "second" {
		t.Errorf("the server saw %q", g.client())
	}
}

func TestCertificatesBesideAnEndpointWithoutEncryption(t *testing.T) {
	ca := tlstest.New(t, t.TempDir(), "ca")
	for endpoint, warned := range map[string]bool{
		"http://127.0.0.1:1": true, "https://127.0.0.1:1": false, "127.0.0.1:1": false,
	} {
		log, hook := logtest.NewNullLogger()
		open(t, Options{Endpoints: []string{endpoint}, CAFile: ca.File, Log: log})
		have := len(hook.AllEntries()) == 1 && strings.Contains(hook.LastEntry().Message, "not encrypted")
		if have != warned {
			t.Errorf("%s: want a warning: %v, have %v", endpoint, warned, hook.AllEntries())
		}
	}
}

func TestPasswords(t *testing.T) {
	server := startServer(t, t.TempDir(), "127.0.0.1:0")
	admin, ctx := raw(t, server.Endpoint()), short(t)
	if _, err := admin.UserAdd(ctx, "root", "sesame"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.UserGrantRole(ctx, "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
	log, hook := logtest.NewNullLogger()
	o := Options{Endpoints: []string{server.Endpoint()}, Username: "root", Password: "sesame", Log: log}
	right := open(t, o)
	l := mustAcquire(t, right, claim(t, config4, 1))
	follow(t, right).until("the lease", hasIDs(l.ID))

	o.Password = "sesame2"
	wrong := open(t, o)
	errs := map[string]error{}
	errs["watch"] = wrong.Watch(ctx, make(chan subnet.Snapshot))
	_, errs["acquire"] = wrong.Acquire(ctx, claim(t, config4, 2))
	_, errs["publish"] = wrong.Publish(ctx, l, l)
	_, errs["leases"] = wrong.Leases(ctx)
	o.Username, o.Password = "", ""
	errs["nobody"] = open(t, o).Watch(ctx, make(chan subnet.Snapshot))
	for what, err := range errs {
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), server.Endpoint()) {
			t.Fatalf("%s: want an error at once that names the endpoint, have %v", what, err)
		}
		if strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: the password is in the error: %v", what, err)
		}
	}
	for _, e := range hook.AllEntries() {
		if line, err := e.String(); err != nil || strings.Contains(line, "sesame") {
			t.Errorf("the password is in the log: %s (%v)", line, err)
		}
	}
}

// loseAnswers lets the first n transactions through and drops what came back.
func loseAnswers(s *Store, n int) {
	s.config.DialOptions = append(s.config.DialOptions, grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
			invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoke(ctx, method, req, reply, cc, opts...)
			if strings.HasSuffix(method, "/Txn") && n > 0 {
				n--
				return status.Error(codes.Unavailable, "the answer was lost")
			}
			return err
		}))
}

func TestAnswersThatAreLost(t *testing.T) {
	for name, config := range map[string]string{"IPv4": config4, "dual stack": configDual} {
		t.Run(name, func(t *testing.T) {
			s := open(t, Options{})
			loseAnswers(s, 1)
			c := claim(t, config, 1)
			l := mustAcquire(t, s, c)
			snap, err := s.Leases(short(t))
			if err != nil || !hasIDs(l.ID)(snap) || snap.Leases[0].Revision != l.Revision {
				t.Errorf("want one lease %+v, have %+v (%v)", l, snap.Leases, err)
			}
			again := open(t, Options{})
			loseAnswers(again, 1)
			next := c
			next.ID, next.Created = l.ID, l.Created
			next.Shares = claim(t, config, 7).Shares
			changed := mustAcquire(t, again, next)
			if changed.Created != l.Created || changed.Revision != l.Revision+1 {
				t.Errorf("rewritten: %+v after %+v", changed, l)
			}
			publisher := open(t, Options{})
			loseAnswers(publisher, 1)
			published, err := publisher.Publish(short(t), changed, l)
			if err != nil || published.Revision != changed.Revision+1 || !sameContent(published, l) {
				t.Errorf("published: %+v, %v", published, err)
			}
		})
	}
}
