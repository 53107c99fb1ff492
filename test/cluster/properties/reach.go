package properties

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/pkg/topology"
)

func nodesAreReady(ctx context.Context, s *Suite) (string, error) {
	if err := s.nodesReady(ctx); err != nil {
		return "", err
	}
	n, err := s.Cluster.Client.CoreV1().Nodes().Get(ctx, s.Cluster.Nodes[0].Name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	c := condition(*n, corev1.NodeNetworkUnavailable)
	return fmt.Sprintf("%d nodes; NetworkUnavailable False: %s", len(s.Cluster.Nodes), c.Reason), nil
}

// podToPod: the server sees the address of the client's pod, so there was no
// NAT on the way.
func podToPod(ctx context.Context, s *Suite) (string, error) {
	a, b, err := s.pods(ctx)
	if err != nil {
		return "", err
	}
	return both(ctx, a, b)
}

// both asks each of two pods from the other, by each family.
func both(ctx context.Context, a, b *pod) (string, error) {
	var seen []string
	for _, way := range [][2]*pod{{a, b}, {b, a}} {
		for i, to := range way[1].addrs {
			have, err := client(ctx, way[0].ns, netip.AddrPortFrom(to, port))
			if err != nil {
				return "", err
			}
			if want := way[0].addrs[i]; have != want {
				return "", fmt.Errorf("%s at %s sees %s: want %s's own address %s", way[1].name, to, have, way[0].name, want)
			}
			seen = append(seen, fmt.Sprintf("%s sees %s", to, have))
		}
	}
	return strings.Join(seen, ", "), nil
}

func nodeToPod(ctx context.Context, s *Suite) (string, error) {
	a, b, err := s.pods(ctx)
	if err != nil {
		return "", err
	}
	asked := 0
	for _, m := range s.Cluster.Nodes {
		for _, to := range slices.Concat(a.addrs, b.addrs) {
			if _, err := client(ctx, m.Net, netip.AddrPortFrom(to, port)); err != nil {
				return "", err
			}
			asked++
		}
	}
	return fmt.Sprintf("%d of %d: each node to a pod of its own and of another's, both families", asked, asked), nil
}

// service is a Service's addresses, one of each family.
func (s *Suite) service(ctx context.Context, name string) ([]netip.Addr, error) {
	got, err := s.Cluster.Client.CoreV1().Services(space).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, ip := range got.Spec.ClusterIPs {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// answerers asks until both servers have answered.
func answerers(ctx context.Context, from *topology.Namespace, at netip.AddrPort, want ...string) error {
	seen := map[string]bool{}
	var last error
	err := eventually(ctx, 20*time.Second, "answers from "+at.String(), func() error {
		name, err := get(ctx, from, at, "/hostname")
		if err != nil {
			last = err
			return err
		}
		seen[name] = true
		for _, w := range want {
			if !seen[w] {
				return fmt.Errorf("%s has not answered: %v", w, seen)
			}
		}
		return nil
	})
	if err == nil && last != nil {
		return fmt.Errorf("not every request was answered: %w", last)
	}
	return err
}

func clusterIP(ctx context.Context, s *Suite) (string, error) {
	a, b, err := s.pods(ctx)
	if err != nil {
		return "", err
	}
	addrs, err := s.service(ctx, "web")
	if err != nil {
		return "", err
	}
	places := []*topology.Namespace{a.ns, b.ns}
	for _, m := range s.Cluster.Nodes {
		places = append(places, m.Net)
	}
	for _, at := range addrs {
		for _, from := range places {
			if err := answerers(ctx, from, netip.AddrPortFrom(at, port), a.Name, b.Name); err != nil {
				return "", err
			}
		}
	}
	return fmt.Sprintf("%s: both servers answer, from %d pods and %d nodes", addrs, 2, len(s.Cluster.Nodes)), nil
}

func nodePort(ctx context.Context, s *Suite) (string, error) {
	asked := []string{}
	for _, m := range s.Cluster.Nodes {
		for _, addr := range m.Net.Addrs {
			at := netip.AddrPortFrom(addr, 30080)
			if err := answerers(ctx, s.Cluster.Outside, at, "web-1", "web-2"); err != nil {
				return "", err
			}
			asked = append(asked, at.String())
		}
	}
	return "from outside, both servers answer at " + strings.Join(asked, ", "), nil
}

// policyLocal: the node with the server keeps the client's address, and one
// without a server doesn't answer.
func policyLocal(ctx context.Context, s *Suite) (string, error) {
	with, without := s.machine("node-2"), s.machine("node-1")
	var seen []string
	for i, addr := range with.Net.Addrs {
		have, err := client(ctx, s.Cluster.Outside, netip.AddrPortFrom(addr, 30081))
		if err != nil {
			return "", err
		}
		if want := s.Cluster.Outside.Addrs[i]; have != want {
			return "", fmt.Errorf("the server sees %s: want the client's own address %s", have, want)
		}
		seen = append(seen, have.String())
		if _, err := client(ctx, s.Cluster.Outside, netip.AddrPortFrom(without.Net.Addrs[i], 30081)); err == nil {
			return "", fmt.Errorf("%s answers, and has no server", without.Name)
		}
	}
	return fmt.Sprintf("the server sees the client's %s; a node without a server doesn't answer",
		strings.Join(seen, " and ")), nil
}

func hostPort(ctx context.Context, s *Suite) (string, error) {
	var seen []string
	for i, addr := range s.machine("node-2").Net.Addrs {
		at := netip.AddrPortFrom(addr, 18080)
		have, err := client(ctx, s.Cluster.Outside, at)
		if err != nil {
			return "", err
		}
		if want := s.Cluster.Outside.Addrs[i]; have != want {
			return "", fmt.Errorf("the server sees %s: want the client's own address %s", have, want)
		}
		seen = append(seen, fmt.Sprintf("%s sees %s", at, have))
	}
	return strings.Join(seen, ", "), nil
}

// egress: a host outside sees the node, not the pod.
func egress(ctx context.Context, s *Suite) (evidence string, err error) {
	a, _, err := s.pods(ctx)
	if err != nil {
		return "", err
	}
	serving, stop := context.WithCancel(ctx)
	ended := make(chan error, len(s.Cluster.Outside.Addrs))
	defer func() {
		stop()
		for range s.Cluster.Outside.Addrs {
			if e := <-ended; !errors.Is(e, context.Canceled) {
				err = errors.Join(err, e)
			}
		}
	}()
	var at []netip.AddrPort
	for _, addr := range s.Cluster.Outside.Addrs {
		to := netip.AddrPortFrom(addr, 7070)
		l, err := s.Cluster.Outside.Listen(to)
		if err != nil {
			ended <- context.Canceled
			return "", err
		}
		go func() { ended <- topology.ServePages(serving, "outside", l) }()
		at = append(at, to)
	}
	var seen []string
	for i, to := range at {
		page, err := a.ns.Fetch(ctx, to)
		if err != nil {
			return "", err
		}
		if want := s.machine(a.Spec.NodeName).Net.Addrs[i]; page.Client != want {
			return "", fmt.Errorf("the outside sees %s: want the node's address %s", page.Client, want)
		}
		seen = append(seen, fmt.Sprintf("%s is seen as %s", a.addrs[i], page.Client))
	}
	return strings.Join(seen, ", "), nil
}

func localhost(ctx context.Context, s *Suite) (string, error) {
	a, err := s.pod(ctx, "web-1")
	if err != nil {
		return "", err
	}
	for _, lo := range []string{"127.0.0.1", "::1"} {
		if err := s.dial(ctx, a, lo, "8090"); err != nil {
			return "", err
		}
	}
	return "the first container asks the second at 127.0.0.1:8090 and [::1]:8090", nil
}

func ingress(ctx context.Context, s *Suite) (string, error) {
	for _, addr := range s.machine("node-1").Net.Addrs {
		if err := answerers(ctx, s.Cluster.Outside, netip.AddrPortFrom(addr, 80), "web-1", "web-2"); err != nil {
			return "", err
		}
	}
	return "outside → hostPort 80 of the proxy's pod → Service by its DNS name → both servers, both families", nil
}
