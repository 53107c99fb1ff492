package properties

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/test/cluster/kube"
)

// dial lets the server in a pod ask another one, with the names and addresses
// that the pod itself knows (agnhost netexec, /dial).
func (s *Suite) dial(ctx context.Context, p *pod, host, to string) error {
	q := url.Values{"host": {host}, "port": {to}, "protocol": {"http"}, "request": {"hostname"}, "tries": {"1"}}
	body, err := get(ctx, s.machine(p.Spec.NodeName).Net, netip.AddrPortFrom(p.addrs[0], port), "/dial?"+q.Encode())
	if err != nil {
		return err
	}
	var said struct{ Responses, Errors []string }
	if err := json.Unmarshal([]byte(body), &said); err != nil {
		return err
	}
	if len(said.Responses) != 1 || len(said.Errors) > 0 {
		return fmt.Errorf("%s asks %s: %s", p.name, host, body)
	}
	return nil
}

func dnsByName(ctx context.Context, s *Suite) (string, error) {
	a, b, err := s.pods(ctx)
	if err != nil {
		return "", err
	}
	names := []string{"web", "web.props", "web.props.svc.cluster.local"}
	for _, p := range []*pod{a, b} {
		for _, name := range names {
			if err := s.dial(ctx, p, name, fmt.Sprint(port)); err != nil {
				return "", err
			}
		}
	}
	return "from pods of two nodes: " + strings.Join(names, ", "), nil
}

func headless(ctx context.Context, s *Suite) (string, error) {
	a, b, err := s.pods(ctx)
	if err != nil {
		return "", err
	}
	want := slices.Concat(a.addrs, b.addrs)
	slices.SortFunc(want, netip.Addr.Compare)
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		err = a.ns.Do(func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(kube.DNS, "53"))
			return err
		})
		return conn, err
	}}
	var have []netip.Addr
	err = eventually(ctx, 20*time.Second, "the addresses of web-headless", func() (err error) {
		if have, err = r.LookupNetIP(ctx, "ip", "web-headless.props.svc.cluster.local."); err != nil {
			return err
		}
		for i := range have {
			have[i] = have[i].Unmap()
		}
		slices.SortFunc(have, netip.Addr.Compare)
		if !slices.Equal(have, want) {
			return fmt.Errorf("have %s, want %s", have, want)
		}
		return nil
	})
	return fmt.Sprintf("the name gives %s", have), err
}
