// Package apiserver runs a real kube-apiserver for tests: that of the release
// in go.mod, with an etcd behind it, in one process beside the test. There is
// no controller manager, scheduler or kubelet: what they do, the test does.
//
//	test ──HTTPS, RBAC──→ kube-apiserver ──unix socket──→ etcd ──→ directory
//	 │                    └────────────── one process ───────────┘
//	 └─ its standard input: when that ends, the process does
//
// The process is the test's own binary, which therefore has to call Serve first
// of all in TestMain. Everything it writes is below one directory; the port is
// reserved for as long as the Server lives, so that a restart finds it free.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
)

const (
	startTimeout = 2 * time.Minute // for a machine that is busy with builds
	stopTimeout  = 20 * time.Second
	poll         = 20 * time.Millisecond
)

// Server is one API server. Its methods are not safe for concurrent use.
type Server struct {
	dir       string
	port      *os.File // bound, never listened on
	addr      string
	authority *authority
	process   *exec.Cmd
	stdin     io.Closer
	ended     chan error
}

// Start makes an API server with an empty store, and waits until it is ready.
// flags are added to those of kube-apiserver; of two, the later one counts.
func Start(ctx context.Context, flags ...string) (*Server, error) {
	dir, err := os.MkdirTemp("", "weft-apiserver-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir}
	if err = s.prepare(); err == nil {
		err = s.Resume(ctx, flags...)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) prepare() (err error) {
	if s.port, s.addr, err = reserve(); err != nil {
		return err
	}
	if s.authority, err = newAuthority(); err != nil {
		return err
	}
	if err := s.authority.write(s.dir); err != nil {
		return err
	}
	return os.WriteFile(s.path("audit.yml"), []byte(auditPolicy), 0o600)
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

// reserve takes a port of 127.0.0.1. As the socket doesn't listen, whoever else
// binds with SO_REUSEPORT as the same user gets all connections.
func reserve() (*os.File, string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("reserve a port: %w", err)
	}
	f := os.NewFile(uintptr(fd), "port")
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("reserve a port: %w", err), f.Close())
	}
	name, err := unix.Getsockname(fd)
	at, ok := name.(*unix.SockaddrInet4)
	if err != nil || !ok {
		return nil, "", errors.Join(fmt.Errorf("reserve a port: %v: %w", name, err), f.Close())
	}
	return f, fmt.Sprintf("127.0.0.1:%d", at.Port), nil
}

// Resume starts a server that was stopped or killed, on what it had stored.
func (s *Server) Resume(ctx context.Context, flags ...string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own
	s.process = exec.Command(exe, append(s.flags(), flags...)...)
	s.process.Dir = s.dir
	s.process.Env = append(os.Environ(), childDir+"="+s.dir)
	s.process.Stdout, s.process.Stderr = log, log
	if s.stdin, err = s.process.StdinPipe(); err != nil {
		return err
	}
	if err := s.process.Start(); err != nil {
		s.process = nil
		return fmt.Errorf("start the API server: %w", err)
	}
	ended, process := make(chan error, 1), s.process
	s.ended = ended
	go func() { ended <- process.Wait() }()
	return s.ready(ctx)
}

func (s *Server) flags() []string {
	_, port, _ := net.SplitHostPort(s.addr) // we made it
	return []string{
		"--etcd-servers=" + socket(s.dir),
		"--bind-address=127.0.0.1", "--secure-port=" + port, "--permit-port-sharing",
		"--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none", // which refuses loopback addresses
		"--service-cluster-ip-range=10.96.0.0/16",
		"--tls-cert-file=" + s.path(serverName+".crt"), "--tls-private-key-file=" + s.path(serverName+".key"),
		"--client-ca-file=" + s.path(caFile),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file=" + s.path(serverName+".key"),
		"--service-account-key-file=" + s.path(serverName+".key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--audit-policy-file=" + s.path("audit.yml"), "--audit-log-path=" + s.path(auditLog),
		"--shutdown-delay-duration=0", "--shutdown-watch-termination-grace-period=1s", // or it waits for watches to end
		"--profiling=false",
	}
}

// ready waits until the server says that it is.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client, err := rest.HTTPClientFor(s.Admin())
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		said := s.askReady(ctx, client)
		if said == nil {
			return nil
		}
		select {
		case err := <-s.ended:
			s.process = nil
			return fmt.Errorf("the API server ended by %w: %s", err, s.tail())
		case <-ctx.Done():
			return fmt.Errorf("the API server is not ready: %w: %s", said, s.tail())
		case <-tick.C:
		}
	}
}

func (s *Server) askReady(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(answer.Body) // it is for the reader only
		return fmt.Errorf("%s: %s", answer.Status, body)
	}
	return nil
}

// tail is the end of the server's log.
func (s *Server) tail() string {
	const most = 4 << 10
	raw, err := os.ReadFile(s.path("log"))
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-most):])
}

// Stop ends the server as an operator does; Kill as a power cut would. The
// store stays, for Resume.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM) }

// Kill ends the server at once.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

func (s *Server) end(by syscall.Signal) error {
	if s.process == nil {
		return nil
	}
	if err := s.process.Process.Signal(by); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end the API server: %w", err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case err := <-s.ended:
		s.process = nil
		if exit := (*exec.ExitError)(nil); by != syscall.SIGTERM && errors.As(err, &exit) {
			return nil // it didn't end well, as was intended
		}
		return err
	case <-timer.C:
		return errors.Join(fmt.Errorf("the API server didn't end in %s by %s", stopTimeout, by), s.end(syscall.SIGKILL))
	}
}

// Close kills the server and removes all that it had.
func (s *Server) Close() error {
	err := s.Kill()
	if s.port != nil {
		err = errors.Join(err, s.port.Close())
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// URL is where the server listens.
func (s *Server) URL() string { return "https://" + s.addr }

// Etcd is a client of the store behind the server; the caller closes it.
func (s *Server) Etcd() (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{socket(s.dir)}, Logger: zap.NewNop()})
}

// Resident is how many bytes of memory the server's process has.
func (s *Server) Resident() (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) < 2 || fields[1] != "kB" {
		return 0, errors.New("there is no VmRSS in /proc/PID/status")
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	return kib << 10, err
}
