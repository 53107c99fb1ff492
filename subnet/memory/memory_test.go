package memory_test

import (
	"testing"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/memory"
	"github.com/weftnet/weft/subnet/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Harness {
		server := memory.New()
		client := server.Client()
		return storetest.Harness{
			Store:     client,
			Client:    func(*testing.T) subnet.Store { return server.Client() },
			SetConfig: func(_ *testing.T, raw string) { server.SetConfig([]byte(raw)) },
			Delete:    func(_ *testing.T, l subnet.Lease) { server.Delete(l.ID) },
			Rewrite:   func(_ *testing.T, l subnet.Lease) { server.Put(l) },
			PutMalformed: func(*testing.T) string {
				server.PutMalformed("no subnet", "is not a list of subnets")
				return "no subnet"
			},
			Cut:  func(*testing.T) { client.Cut() },
			Heal: func(*testing.T) { client.Heal() },
		}
	})
}
