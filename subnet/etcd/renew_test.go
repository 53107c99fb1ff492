package etcd

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"google.golang.org/grpc"

	"github.com/weftnet/weft/subnet"
)

// hold starts Hold and gives what it returns.
func hold(t *testing.T, s *Store, l subnet.Lease) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		ended <- s.Hold(ctx, l)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return ended
}

// await polls until f is true.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !f(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// countKeepAlives counts streams: the client's keep-alive runs over one, and
// each renewal beyond it opens one of its own.
func countKeepAlives(s *Store) *atomic.Int32 {
	var streams atomic.Int32
	s.config.DialOptions = append(s.config.DialOptions, grpc.WithChainStreamInterceptor(
		func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
			open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if strings.HasSuffix(method, "/LeaseKeepAlive") {
				streams.Add(1)
			}
			return open(ctx, desc, cc, method, opts...)
		}))
	return &streams
}

func TestRenewMargin(t *testing.T) {
	t.Parallel()
	s := open(t, Options{TTL: 10 * time.Second, RenewMargin: time.Hour}) // nine tenths: each second
	streams := countKeepAlives(s)
	l := mustAcquire(t, s, claim(t, config4, 1))
	ended := hold(t, s, l)
	await(t, "two renewals beside the keep-alive", func() bool { return streams.Load() >= 3 })
	select {
	case err := <-ended:
		t.Errorf("hold ended: %v", err)
	default:
	}
}

func TestALeaseThatCanNotBeRenewedIsToldOnce(t *testing.T) {
	t.Parallel()
	log, hook := logtest.NewNullLogger()
	count := func(text string) (n int) {
		for _, e := range hook.AllEntries() {
			if strings.Contains(e.Message, text) {
				n++
			}
		}
		return n
	}
	p := startProxy(t, endpoint)
	s := open(t, Options{
		Endpoints: []string{p.endpoint()}, TTL: 10 * time.Second, RenewMargin: 9 * time.Second, Log: log,
	})
	streams := countKeepAlives(s)
	l := mustAcquire(t, s, claim(t, config4, 1))
	ended := hold(t, s, l)
	await(t, "a first renewal", func() bool { return streams.Load() >= 2 })
	p.set(true)
	await(t, "a warning", func() bool { return count("can't be renewed") == 1 })
	e := hook.LastEntry()
	if e.Level != logrus.WarnLevel || e.Data["lease"] != l.ID || e.Data["left"] == time.Duration(0) {
		t.Errorf("have %v %v", e.Level, e.Data)
	}
	p.set(false)
	await(t, "the end of it", func() bool { return count("renewed again") == 1 })
	if n := count("can't be renewed"); n != 1 {
		t.Errorf("told %d times", n)
	}
	select {
	case err := <-ended:
		t.Errorf("hold ended: %v", err)
	default:
	}
}

// A reservation has no end, whatever its key was attached to before.
func TestAReservationIsNeverLate(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	l := newLife(time.Hour, log)
	l.renewed(0)
	l.stop()
	l.check()
	if e := hook.LastEntry(); e != nil {
		t.Errorf("have %s", e.Message)
	}
	l.renewed(0)
	l.check()
	if e := hook.LastEntry(); e == nil {
		t.Error("a lease of no seconds is not late")
	}
}

func TestPasswordFile(t *testing.T) {
	write := func(content string) string {
		path := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		o    Options
		want string // the password
		err  string
	}{
		"one line":             {Options{PasswordFile: write("sesame\n")}, "sesame", ""},
		"without its end":      {Options{PasswordFile: write("sesame")}, "sesame", ""},
		"from Windows":         {Options{PasswordFile: write("sesame\r\n")}, "sesame", ""},
		"blanks belong to it":  {Options{PasswordFile: write(" ses ame \n")}, " ses ame ", ""},
		"nothing":              {Options{PasswordFile: write("\n")}, "", "on one line"},
		"two lines":            {Options{PasswordFile: write("sesame\nopen\n")}, "", "on one line"},
		"no file":              {Options{PasswordFile: "/nowhere/password"}, "", "/nowhere/password: no such file"},
		"and a password":       {Options{PasswordFile: write("sesame"), Password: "x"}, "", "one of them is too many"},
		"a password by itself": {Options{Password: "sesame"}, "sesame", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.Endpoints = []string{endpoint}
			s, err := New(c.o)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "sesame") {
					t.Errorf("want an error with %q and without the password, have %v", c.err, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if s.config.Password != c.want {
				t.Errorf("want %q, have %q", c.want, s.config.Password)
			}
		})
	}
}

func TestRenewalsAreSpread(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		d := jittered(8 * time.Hour)
		if seen[d] = true; d > 8*time.Hour || d < 8*time.Hour*4/5 {
			t.Errorf("%s", d)
		}
	}
	if len(seen) < 50 {
		t.Errorf("only %d different ones", len(seen))
	}
	if d := jittered(0); d != 0 {
		t.Errorf("a lease that is over is renewed in %s", d)
	}
}
