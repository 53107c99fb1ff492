// Package kube_test runs subnet/kube against a real API server, as a service
// account with the role that the manifests give to the daemon.
package kube_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weftnet/weft/test/kube/apiserver"
)

const (
	patience = 20 * time.Second // for anything, before a test fails
	manifest = "../../dist/kubernetes/weft.yml"
	space    = "kube-weft" // of the service account in manifest
	account  = "weft"
	user     = "system:serviceaccount:" + space + ":" + account
)

// shared is the cluster of the tests that leave it well. There is one set of
// Nodes in it, so they don't run in parallel. What hurts the server, or waits
// long, starts one for itself and does.
var shared *cluster

func TestMain(m *testing.M) {
	served, err := apiserver.Serve()
	if !served && err == nil && os.Getenv(watcherEnv) != "" {
		served, err = true, watchUntilTold()
	}
	if err != nil {
		panic(err)
	}
	if served {
		return
	}
	shared, err = newCluster(context.Background())
	if err != nil {
		panic(err)
	}
	defer func() {
		if err := shared.server.Close(); err != nil {
			panic(err)
		}
	}()
	m.Run() // its result is the exit status once TestMain returns
}

// cluster is an API server with the manifest applied.
type cluster struct {
	server *apiserver.Server
	admin  kubernetes.Interface
	token  string // of the service account
}

// own starts a server for one test.
func own(t testing.TB, flags ...string) *cluster {
	t.Helper()
	c, err := newCluster(t.Context(), flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.server.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func newCluster(ctx context.Context, flags ...string) (*cluster, error) {
	s, err := apiserver.Start(ctx, flags...)
	if err != nil {
		return nil, err
	}
	c := &cluster{server: s}
	if err := c.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return c, nil
}

func (c *cluster) prepare(ctx context.Context) (err error) {
	config := c.server.Admin()
	config.ContentType = "application/vnd.kubernetes.protobuf"
	if c.admin, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if _, err := c.apply(ctx, manifest); err != nil {
		return err
	}
	c.token, err = c.newToken(ctx, account)
	return err
}

// newToken asks for one that is bound to nothing, as by kubectl create token.
func (c *cluster) newToken(ctx context.Context, name string) (string, error) {
	return c.tokenOf(ctx, space, name, nil)
}

func (c *cluster) tokenOf(ctx context.Context, space, name string, of *authv1.BoundObjectReference) (string, error) {
	got, err := c.admin.CoreV1().ServiceAccounts(space).CreateToken(ctx, name,
		&authv1.TokenRequest{Spec: authv1.TokenRequestSpec{BoundObjectRef: of}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return got.Status.Token, nil
}

// clear deletes all Nodes, so that a test finds none.
func (c *cluster) clear(t testing.TB) {
	t.Helper()
	zero := int64(0)
	err := c.admin.CoreV1().Nodes().DeleteCollection(t.Context(),
		metav1.DeleteOptions{GracePeriodSeconds: &zero}, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// retry does again what a concurrent write has undone.
func retry(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) || time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// eventually asks until the answer is good.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s: %v", patience, what, err)
		}
		<-tick.C
	}
}
