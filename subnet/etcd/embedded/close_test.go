package embedded

import (
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestCloseIsPromptWithClients closes a server over and over while clients watch
// it; etcd's own way takes 6 s once in a while. What was written is there again.
func TestCloseIsPromptWithClients(t *testing.T) {
	const promptly = 900 * time.Millisecond
	dir := filepath.Join(t.TempDir(), "etcd")
	for range 12 {
		s, err := start(t, Options{Dir: dir, Listen: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			c := client(t, s.Endpoint())
			watch := c.Watch(clientv3.WithRequireLeader(t.Context()), "/a", clientv3.WithCreatedNotify())
			if first := <-watch; !first.Created {
				t.Fatalf("no watch: %v", first.Err())
			}
		}
		c := client(t, s.Endpoint())
		put, err := c.Put(t.Context(), "/a", "b")
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Get(t.Context(), "/a")
		if err != nil || got.Kvs[0].Version != put.Header.Revision-1 {
			t.Fatalf("version %v after revision %d (%v)", got, put.Header.Revision, err)
		}
		begun := time.Now()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > promptly {
			t.Errorf("closing took %s, want at most %s", took, promptly)
		}
	}
}
