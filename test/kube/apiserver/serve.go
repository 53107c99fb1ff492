package apiserver

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// childDir is set in the environment of the processes that Start makes.
const childDir = "WEFT_TEST_APISERVER"

// Serve makes of this process the API server, if Start has made it for that,
// and says whether it was. It returns when the server has been stopped.
func Serve() (served bool, err error) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return false, nil
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)                // it ends when the test does, however that comes
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL) // nobody is left to be orderly for
	}()
	etcd, err := serveEtcd(dir)
	if err != nil {
		return true, err
	}
	defer etcd.Close()
	c := app.NewAPIServerCommand()
	c.SetArgs(os.Args[1:])
	return true, c.Execute()
}

// socket is the address of the etcd below a directory.
func socket(dir string) string { return "unix://" + filepath.Join(dir, "etcd.sock") }

func serveEtcd(dir string) (*embed.Etcd, error) {
	clients, err := url.Parse(socket(dir))
	if err != nil {
		return nil, err
	}
	// Where a killed one has left it.
	if err := os.Remove(clients.Path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	nobody := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}} // is a peer, or asks where clients shall go
	c := embed.NewConfig()
	c.Dir = filepath.Join(dir, "etcd")
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*clients}, nobody
	c.ListenPeerUrls, c.AdvertisePeerUrls = nobody, nobody
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.UnsafeNoFsync = true // the machine itself isn't among what fails
	c.LogLevel = "error"
	e, err := embed.StartEtcd(c)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	select {
	case <-e.Server.ReadyNotify():
		return e, nil
	case err := <-e.Err():
		return nil, fmt.Errorf("start etcd: %w", err)
	case <-time.After(startTimeout):
		e.Close()
		return nil, fmt.Errorf("etcd is not ready after %s", startTimeout)
	}
}
