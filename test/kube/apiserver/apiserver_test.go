package apiserver_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weftnet/weft/test/kube/apiserver"
)

func TestMain(m *testing.M) {
	served, err := apiserver.Serve()
	if err != nil {
		panic(err)
	}
	if !served {
		m.Run() // its result is the exit status once TestMain returns
	}
}

func TestServer(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	began := time.Now()
	s, err := apiserver.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	resident, err := s.Resident()
	if err != nil {
		t.Error(err)
	}
	t.Logf("ready after %s, with %d MiB resident", time.Since(began).Round(time.Millisecond), resident>>20)
	client, err := kubernetes.NewForConfig(s.Admin())
	if err != nil {
		t.Fatal(err)
	}
	nodes := client.CoreV1().Nodes()
	if _, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "stays"}},
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]func() error{"stopped": s.Stop, "killed": s.Kill} {
		if err := end(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := nodes.List(t.Context(), metav1.ListOptions{}); err == nil {
			t.Errorf("%s, it answers", name)
		}
		began := time.Now()
		if err := s.Resume(t.Context()); err != nil {
			t.Fatalf("resume one that was %s: %v", name, err)
		}
		t.Logf("%s, it was back after %s", name, time.Since(began).Round(time.Millisecond))
		if _, err := nodes.Get(t.Context(), "stays", metav1.GetOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// What ends at once is said at once, with the server's own words.
func TestServerThatEnds(t *testing.T) {
	began := time.Now()
	s, err := apiserver.Start(t.Context(), "--authorization-mode=Nobody")
	if err == nil {
		t.Fatal(s.Close())
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s to say: %v", took, err)
	}
}
