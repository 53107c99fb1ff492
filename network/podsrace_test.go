package network

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/mend"
)

// goingPod is a podHost whose pod a DEL takes away when the kernel was read so often.
type goingPod struct {
	podHost
	at   int
	del  func()
	late bool // something was written when all was gone
	gone bool // guarded by mu
}

func (h *goingPod) Observe(ctx context.Context, names mend.Names) (mend.Host, error) {
	host, err := h.podHost.Observe(ctx, names)
	h.mu.Lock()
	gone := h.gone
	h.mu.Unlock()
	if gone {
		host.Links = nil
	}
	if h.at--; h.at == 0 {
		h.del()
	}
	return host, err
}

func (h *goingPod) Apply(ctx context.Context, steps []mend.Step) []error {
	h.mu.Lock()
	h.late = h.late || h.gone
	h.mu.Unlock()
	return h.podHost.Apply(ctx, steps)
}

// A DEL that comes between a look at the kernel and what is written after it: whoever is
// first, nothing is written when the pod is gone. A guard's chain would stay.
func TestPodMenderAndDel(t *testing.T) {
	for at := 1; at <= 3; at++ {
		t.Run(fmt.Sprintf("at look %d", at), func(t *testing.T) {
			log, _ := logtest.NewNullLogger()
			log.SetOutput(io.Discard)
			host, key := &goingPod{at: at}, podRecord().Key
			dir := attachment.Dir(filepath.Join(t.TempDir(), "records"))
			if err := dir.Put(podRecord()); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			var del sync.WaitGroup
			host.del = func() { // as the CNI plugin does it
				del.Go(func() {
					defer dir.Claim(key, 20*time.Second)()
					host.mu.Lock()
					host.gone = true
					host.mu.Unlock()
					ended <- dir.Remove(key)
				})
				select { // it has to wait, or it is over
				case err := <-ended:
					ended <- err
				case <-time.After(100 * time.Millisecond):
				}
			}
			m := &podMender{kernel: host, dir: dir, log: log, mended: func(int) {}}
			if !m.load() {
				t.Fatal("the record can't be read")
			}
			if _, err := m.round(t.Context()); err != nil {
				t.Error(err)
			}
			del.Wait()
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			default:
				t.Errorf("the kernel was not read %d times", at)
			}
			if host.late {
				t.Error("something was written after the pod had gone")
			}
			if up, applied := host.is(); at > 1 && (!up || applied != 1) {
				t.Errorf("up %v, %d steps, though the DEL came later", up, applied)
			}
		})
	}
}
