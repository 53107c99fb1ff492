package embedded

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/weftnet/weft/pkg/tlstest"
)

func start(t *testing.T, o Options) (*Server, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := Start(ctx, o)
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

func client(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestServerKeepsItsDataAndItsIdentity(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	dir := filepath.Join(t.TempDir(), "deep", "etcd")
	o := Options{Dir: dir, Listen: "127.0.0.1:0", Log: log}
	s, err := start(t, o)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the data directory: want 0700, have %v (%v)", info.Mode(), err)
	}
	put, err := client(t, s.Endpoint()).Put(t.Context(), "/a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = start(t, o); err != nil {
		t.Fatal(err)
	}
	get, err := client(t, s.Endpoint()).Get(t.Context(), "/a")
	if err != nil || len(get.Kvs) != 1 || string(get.Kvs[0].Value) != "b" {
		t.Errorf("the key after a restart: %v, %v", get, err)
	}
	if put.Header.ClusterId != get.Header.ClusterId {
		t.Error("the cluster's id changed with a restart")
	}
	fresh, err := start(t, Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := client(t, fresh.Endpoint()).Get(t.Context(), "/a")
	if err != nil || other.Header.ClusterId == get.Header.ClusterId {
		t.Errorf("a new data directory: want another cluster id (%v)", err)
	}
	for _, e := range hook.AllEntries() {
		t.Errorf("a good start and stop logged: %s %v", e.Message, e.Data)
	}
}

func TestSeveralAddresses(t *testing.T) {
	s, err := start(t, Options{Dir: t.TempDir(), Listen: "127.0.0.1:0,[::1]:0"})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.etcd.Clients); n != 2 {
		t.Errorf("listeners: want 2, have %d", n)
	}
	for _, l := range s.etcd.Clients {
		if _, err := client(t, "http://"+l.Addr().String()).Get(t.Context(), "x"); err != nil {
			t.Errorf("%s: %v", l.Addr(), err)
		}
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	used := t.TempDir()
	if _, err := start(t, Options{Dir: used, Listen: "127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ca := tlstest.New(t, t.TempDir(), "ca")
	cert, key := ca.File+".cert", ca.File+".key"
	ca.Issue(cert, key, tlstest.Cert{})
	tests := map[string]struct {
		o    Options
		want []string
	}{
		"the port is taken": {
			Options{Dir: t.TempDir(), Listen: busy.Addr().String()},
			[]string{busy.Addr().String(), "in use", "choose another"},
		},
		"not an address of this host": {
			Options{Dir: t.TempDir(), Listen: "192.0.2.1:2379", AllowPlaintext: true},
			[]string{"192.0.2.1:2379", "not an address of this host"},
		},
		"plaintext for others": {
			Options{Dir: t.TempDir(), Listen: "0.0.0.0:0"},
			[]string{"0.0.0.0:0", "--embedded-etcd-insecure"},
		},
		"no port": {
			Options{Dir: t.TempDir(), Listen: "127.0.0.1"},
			[]string{`"127.0.0.1"`, "ADDRESS:PORT"},
		},
		"https without a certificate": {
			Options{Dir: t.TempDir(), Listen: "https://127.0.0.1:0"},
			[]string{"https://127.0.0.1:0", "--embedded-etcd-certfile"},
		},
		"http with a certificate": {
			Options{Dir: t.TempDir(), Listen: "http://127.0.0.1:0", CertFile: cert, KeyFile: key},
			[]string{"http://127.0.0.1:0", "https://127.0.0.1:0"},
		},
		"a certificate without a key": {Options{Dir: t.TempDir(), CertFile: cert}, []string{cert, "go together"}},
		"a key that is not there": {
			Options{Dir: t.TempDir(), CertFile: cert, KeyFile: "/nowhere/key"}, []string{"/nowhere/key", "check the path"},
		},
		"an authority alone":      {Options{Dir: t.TempDir(), CAFile: ca.File}, []string{"alone", "--embedded-etcd-certfile"}},
		"members without a name":  {Options{Dir: t.TempDir(), Peers: "http://127.0.0.1:1"}, []string{"NAME=http", "http://127.0.0.1:1"}},
		"members without a port":  {Options{Dir: t.TempDir(), Peers: "weft=http://127.0.0.1"}, []string{"ADDRESS:PORT"}},
		"one member twice":        {Options{Dir: t.TempDir(), Peers: "weft=http://127.0.0.1:1,weft=http://127.0.0.1:2"}, []string{"twice"}},
		"one member's URL twice":  {Options{Dir: t.TempDir(), Peers: "weft=http://127.0.0.1:1,b=http://127.0.0.1:1"}, []string{"twice"}},
		"http and https":          {Options{Dir: t.TempDir(), Peers: "weft=http://127.0.0.1:1,b=https://127.0.0.1:2"}, []string{"all https"}},
		"not one of the members":  {Options{Dir: t.TempDir(), Peers: "a=http://127.0.0.1:1"}, []string{`"weft"`, "--embedded-etcd-name"}},
		"our own member by name":  {Options{Dir: t.TempDir(), Peers: "weft=http://localhost:1"}, []string{"http://localhost:1", "address of this host"}},
		"plaintext between hosts": {Options{Dir: t.TempDir(), Peers: "weft=http://192.0.2.1:1"}, []string{"http://192.0.2.1:1", "--embedded-etcd-insecure"}},
		"members without an authority": {
			Options{Dir: t.TempDir(), CertFile: cert, KeyFile: key, Peers: "weft=https://192.0.2.1:1"},
			[]string{"--embedded-etcd-cafile", "https://192.0.2.1:1"},
		},
		"not an address of this host for members": {
			Options{
				Dir: t.TempDir(), Listen: "127.0.0.1:0", AllowPlaintext: true,
				Peers: "weft=http://192.0.2.1:2380,b=http://192.0.2.2:2380",
			},
			[]string{"192.0.2.1:2380", "not an address of this host"},
		},
		"no directory":              {Options{}, []string{"no data directory"}},
		"a file instead":            {Options{Dir: file}, []string{file, "choose one that can be written"}},
		"used by another process":   {Options{Dir: used, Listen: "127.0.0.1:0"}, []string{used, "in use", "another directory"}},
		"a damaged database":        {Options{Dir: damage(t, "snap/db"), Listen: "127.0.0.1:0"}, []string{"can't be used", "backup"}},
		"a damaged write-ahead log": {Options{Dir: damage(t, "wal/*.wal"), Listen: "127.0.0.1:0"}, []string{"can't be used", "backup"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := start(t, test.o)
			if err == nil {
				t.Fatal("it started")
			}
			for _, want := range append(test.want, "etcd") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("want %q in the error, have: %v", want, err)
				}
			}
		})
	}
}

// damage gives the directory of a server that has stopped, with noise over the
// files that match.
func damage(t *testing.T, files string) string {
	t.Helper()
	dir := t.TempDir()
	s, err := start(t, Options{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "member", files))
	if err != nil || len(found) == 0 {
		t.Fatalf("files to damage: %v, %v", found, err)
	}
	for _, f := range found {
		if err := os.WriteFile(f, []byte(strings.Repeat("noise", 10_000)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestListenAddrs(t *testing.T) {
	tests := map[string]struct {
		list string
		want string
	}{
		"nothing":                       {"", "127.0.0.1:2379"},
		"loopback joins":                {"192.0.2.1:4001", "192.0.2.1:4001, 127.0.0.1:4001"},
		"a URL, blanks, the same twice": {"http://192.0.2.1:1, 192.0.2.1:1,127.0.0.1:2", "192.0.2.1:1, 127.0.0.1:2"},
		"all addresses cover loopback":  {"0.0.0.0:2379", "0.0.0.0:2379"},
		"all addresses of both":         {"[::]:2379", "[::]:2379"},
		"IPv6 loopback is loopback":     {"[::1]:2379", "[::1]:2379"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			have, err := listenAddrs(test.list, false, true)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, join(have)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestErrorsOfEtcdGetIntoOurLog(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	lg := zap.New(newBridge(log, new(atomic.Int32)))
	lg.Warn("not this")
	lg.With(zap.String("dir", "/d")).Error("disk", zap.Int("code", 5))
	have := hook.AllEntries()
	if len(have) != 1 {
		t.Fatalf("want one line, have %d", len(have))
	}
	if have[0].Message != "disk" || have[0].Level != logrus.ErrorLevel {
		t.Errorf("have %s %q", have[0].Level, have[0].Message)
	}
	want := logrus.Fields{"component": "etcd", "dir": "/d", "code": int64(5)}
	if diff := cmp.Diff(want, have[0].Data); diff != "" {
		t.Error(diff)
	}
}
