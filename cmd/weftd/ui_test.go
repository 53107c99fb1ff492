package main

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestUIAddresses(t *testing.T) {
	for given, want := range map[string]string{
		"127.0.0.1:9102": "", "[::1]:9102": "", "localhost:9102": "", "": "",
		":9102":             "only for this machine, as 127.0.0.1:9102",
		"0.0.0.0:9102":      "only for this machine, as 127.0.0.1:9102",
		"192.168.77.1:9102": "only for this machine, as 127.0.0.1:9102",
		"9102":              "want HOST:PORT, as 127.0.0.1:9101",
	} {
		var p localPort
		err := p.Set(given)
		if want == "" && (err != nil || p.String() != given) || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%q: %q, %v; want %q", given, p.String(), err, want)
		}
	}
}

func TestFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most, done atomic.Int32
		ask := few(func(context.Context, string) (io.ReadCloser, error) {
			most.Store(max(most.Load(), now.Add(1)))
			<-time.After(time.Second)
			now.Add(-1)
			return nil, nil
		})
		for range 6 {
			go func() {
				_, err := ask(t.Context(), "/v1/peers")
				if err == nil {
					done.Add(1)
				}
			}()
		}
		synctest.Wait()
		gone, stop := context.WithCancel(t.Context())
		stop()
		if _, err := ask(gone, "/v1/peers"); err == nil {
			t.Error("somebody who left is answered")
		}
		<-time.After(10 * time.Second)
		if most.Load() != maxAsks || done.Load() != 6 {
			t.Errorf("%d at once, %d were answered", most.Load(), done.Load())
		}
	})
}
