package gather

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weftnet/weft/backend/vxlan"
	"github.com/weftnet/weft/pkg/doctor"
	"github.com/weftnet/weft/pkg/httpclock"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/subnet"
)

// saved is what weftd's state directory tells.
type saved struct {
	own       subnet.Lease
	leases    []subnet.Lease
	networks  []netip.Prefix
	backend   string
	vni, port int
}

// saved reads lease.json and snapshot.json: a line of checksum, then JSON.
func (o Options) saved() (s saved) {
	if o.StateDir == "" {
		return s
	}
	var snapshot struct {
		Config json.RawMessage
		Leases []subnet.Lease
	}
	readState(filepath.Join(o.StateDir, "lease.json"), &s.own)
	readState(filepath.Join(o.StateDir, "snapshot.json"), &snapshot)
	s.leases = snapshot.Leases
	cfg, err := subnet.ParseConfig(snapshot.Config)
	if err != nil {
		return s
	}
	for _, n := range cfg.Networks {
		s.networks = append(s.networks, n.Prefix)
	}
	s.backend = cfg.Backend
	if s.backend == "vxlan" {
		if opts, _, err := vxlan.ParseOptions(cfg.BackendOptions); err == nil {
			s.vni, s.port = opts.VNI, opts.Port
		}
	}
	return s
}

// readState leaves v alone where the file can't be read or is damaged: weftd
// leaves it out as well, and says so.
func readState(path string, v any) {
	content, err := os.ReadFile(path)
	if err != nil {
		return
	}
	if _, body, ok := bytes.Cut(content, []byte("\n")); ok {
		_ = json.Unmarshal(body, v)
	}
}

// members splits leases into ours and the peers', one per family. Of our own
// the store knows best; what was saved of all leases may be older than what was
// saved of ours.
func members(own subnet.Lease, all []subnet.Lease, fromStore bool, machines map[string]string) (
	self, peers []doctor.Member,
) {
	for _, l := range append([]subnet.Lease{own}, all...) {
		for _, share := range l.Shares {
			var data struct{ VtepMAC string }
			_ = json.Unmarshal(share.Data, &data) // of another backend: no MAC
			m := doctor.Member{Node: l.Node, Subnet: share.Subnet, Public: share.Public, Machine: machines[l.Node]}
			if m.Node == "" {
				m.Node = l.ID
			}
			m.MAC, _ = mac.Parse(data.VtepMAC)
			if l.ID != own.ID {
				peers = append(peers, m)
				continue
			}
			if i := sameFamily(self, m); i < 0 {
				self = append(self, m)
			} else if fromStore {
				self[i] = m
			}
		}
	}
	return self, peers
}

func sameFamily(list []doctor.Member, m doctor.Member) int {
	return slices.IndexFunc(list, func(o doctor.Member) bool {
		return o.Subnet.Addr().BitLen() == m.Subnet.Addr().BitLen()
	})
}

// skewOf compares our clock with that of an HTTP server.
func skewOf(ctx context.Context, url string, secrets *tls.Config) (time.Duration, bool) {
	if url == "" {
		return 0, false
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, false
	}
	start := time.Now()
	client := http.Client{Transport: &http.Transport{TLSClientConfig: secrets, DisableKeepAlives: true}}
	reply, err := client.Do(request)
	if err != nil {
		return 0, false
	}
	took := time.Since(start)
	_ = reply.Body.Close()
	return httpclock.Skew(reply.Header, start, took)
}
