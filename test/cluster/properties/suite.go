// Package properties says what has to hold on a Kubernetes whose network is
// weft, and looks whether it does. Every property is looked at from inside of
// real pods' namespaces, from the nodes, and from a host outside.
package properties

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/pkg/topology"
	"github.com/weftnet/weft/test/cluster/kube"
)

//go:embed *.yml
var manifests embed.FS

const (
	space    = "props" // namespace of the pods
	patience = 90 * time.Second
	port     = 8080 // of the servers
)

// Suite is a cluster to look at.
type Suite struct {
	Cluster  *kube.Cluster
	Manifest string // dist/kubernetes/weft.yml, with this cluster's networks
	Out      io.Writer
	Only     *regexp.Regexp // the names of the properties to look at
	Started  time.Time
}

// property is one row of the table. They are looked at in their order, and each
// leaves the cluster as it was.
type property struct {
	name string
	look func(ctx context.Context, s *Suite) (evidence string, err error)
}

type result struct {
	name, evidence string
	err            error
	took           time.Duration
}

// Run looks at all properties and prints the table. Its error counts those that
// don't hold.
func (s *Suite) Run(ctx context.Context) error {
	var results []result
	for _, p := range all() {
		if !s.Only.MatchString(p.name) {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		start := time.Now()
		evidence, err := p.look(ctx, s)
		r := result{p.name, evidence, err, time.Since(start)}
		fmt.Fprintf(s.Out, "%-6s %s (%s): %s\n", r.verdict(), r.name, r.took.Round(100*time.Millisecond), r.why())
		results = append(results, r)
	}
	failed := 0
	var rows strings.Builder
	for _, r := range results {
		if r.err != nil {
			failed++
		}
		fmt.Fprintf(&rows, "%s\t%s\t%s\n", r.name, r.verdict(), r.why())
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	if _, err := io.WriteString(w, "\nPROPERTY\tRESULT\tEVIDENCE\n"+rows.String()); err != nil {
		return err
	}
	w.Flush()
	fmt.Fprintf(s.Out, "\n%d properties, %d failed\n", len(results), failed)
	if failed > 0 || ctx.Err() != nil {
		return errors.Join(fmt.Errorf("%d properties don't hold", failed), ctx.Err())
	}
	return nil
}

func (r result) verdict() string {
	if r.err != nil {
		return "FAILED"
	}
	return "ok"
}

func (r result) why() string {
	if r.err != nil {
		return strings.ReplaceAll(r.err.Error(), "\n", "; ")
	}
	return r.evidence
}

func eventually(ctx context.Context, most time.Duration, what string, ask func() error) error {
	return kube.Eventually(ctx, most, what, ask)
}

// Prepare deploys the daemon, as its manifest is shipped, then CoreDNS and the
// pods that everything is shown with.
func (s *Suite) Prepare(ctx context.Context) error {
	if err := s.apply(ctx, "weft.yml", s.Manifest); err != nil {
		return err
	}
	if err := s.nodesReady(ctx); err != nil {
		return err
	}
	for _, name := range []string{"coredns.yml", "workload.yml"} {
		raw, err := manifests.ReadFile(name)
		if err != nil {
			return err
		}
		if err := s.apply(ctx, name, string(raw)); err != nil {
			return err
		}
	}
	for _, name := range []string{"web-1", "web-2", "proxy"} {
		if _, err := s.pod(ctx, name); err != nil {
			return err
		}
	}
	_, err := s.Cluster.Kubectl(ctx, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s")
	if err != nil {
		return err
	}
	// kube-proxy may be a moment behind the pods.
	return eventually(ctx, patience, "Services answer", func() error {
		_, err := clusterIP(ctx, s)
		return err
	})
}

func (s *Suite) apply(ctx context.Context, name, manifest string) error {
	if err := os.WriteFile(s.Cluster.Nodes[0].Path("/tmp/"+name), []byte(manifest), 0o600); err != nil {
		return err
	}
	_, err := s.Cluster.Kubectl(ctx, "apply", "-f", "/tmp/"+name)
	return err
}

func (s *Suite) nodesReady(ctx context.Context) error {
	return eventually(ctx, patience, "nodes Ready", func() error {
		list, err := s.Cluster.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(list.Items) < len(s.Cluster.Nodes) {
			return fmt.Errorf("%d of %d nodes are registered", len(list.Items), len(s.Cluster.Nodes))
		}
		for _, n := range list.Items {
			if c := condition(n, corev1.NodeReady); c.Status != corev1.ConditionTrue {
				return fmt.Errorf("%s: %s", n.Name, c.Message)
			}
			if c := condition(n, corev1.NodeNetworkUnavailable); c.Status != corev1.ConditionFalse {
				return fmt.Errorf("%s: NetworkUnavailable is %q: %s", n.Name, c.Status, c.Message)
			}
		}
		return nil
	})
}

func condition(n corev1.Node, kind corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.NodeCondition{Message: "no condition " + string(kind)}
}

// pod is a running pod, with its namespace under a name of ours.
type pod struct {
	end
	*corev1.Pod
	addrs []netip.Addr // of each family
}

// pod waits until a pod is ready, and finds its network namespace.
func (s *Suite) pod(ctx context.Context, name string) (*pod, error) {
	p := &pod{}
	err := eventually(ctx, patience, "pod "+name, func() (err error) {
		p.Pod, err = s.Cluster.Client.CoreV1().Pods(space).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
				return nil
			}
		}
		return fmt.Errorf("is not ready: %s", s.why(ctx, name))
	})
	if err != nil {
		return nil, err
	}
	for _, ip := range p.Status.PodIPs {
		a, err := netip.ParseAddr(ip.IP)
		if err != nil {
			return nil, err
		}
		p.addrs = append(p.addrs, a)
	}
	if len(p.addrs) != 2 {
		return nil, fmt.Errorf("pod %s has the addresses %s: want one of each family", name, p.addrs)
	}
	ns, err := s.namespace(p)
	p.end = end{ns: ns, name: name, addr: p.addrs[0]}
	return p, err
}

// why is the last event about a pod.
func (s *Suite) why(ctx context.Context, name string) string {
	list, err := s.Cluster.Client.CoreV1().Events(space).List(ctx,
		metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	if err != nil || len(list.Items) == 0 {
		return "no event"
	}
	return list.Items[len(list.Items)-1].Message
}

// namespace looks for the network namespace on the pod's node that has its
// address, and links it to where topology finds it.
func (s *Suite) namespace(p *pod) (*topology.Namespace, error) {
	m := s.machine(p.Spec.NodeName)
	if m == nil {
		return nil, fmt.Errorf("pod %s is on %s, which is no node of ours", p.Name, p.Spec.NodeName)
	}
	entries, err := os.ReadDir(m.Path("/run/netns"))
	if err != nil {
		return nil, err
	}
	ns := &topology.Namespace{Name: "pod-" + p.Name, Addrs: p.addrs}
	for _, e := range entries {
		if err := os.Remove(ns.Path()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := os.Symlink(filepath.Join(m.Path("/run/netns"), e.Name()), ns.Path()); err != nil {
			return nil, err
		}
		has := false
		err := ns.Do(func() error {
			addrs, err := net.InterfaceAddrs()
			for _, a := range addrs {
				has = has || strings.HasPrefix(a.String(), p.addrs[0].String()+"/")
			}
			return err
		})
		if err == nil && has {
			return ns, nil
		}
	}
	return nil, fmt.Errorf("pod %s: no network namespace on %s has the address %s", p.Name, m.Name, p.addrs[0])
}

func (s *Suite) machine(name string) *kube.Machine {
	for _, m := range s.Cluster.Nodes {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// pods are two servers, on two nodes.
func (s *Suite) pods(ctx context.Context) (a, b *pod, err error) {
	if a, err = s.pod(ctx, "web-1"); err != nil {
		return nil, nil, err
	}
	b, err = s.pod(ctx, "web-2")
	return a, b, err
}

// get asks a server for a page, from inside a namespace.
func get(ctx context.Context, from *topology.Namespace, at netip.AddrPort, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	url := fmt.Sprintf("http://%s%s", at, path)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := from.Client().Do(request)
	if err != nil {
		return "", fmt.Errorf("from %s: %w", from.Name, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("from %s: %s: %s: %s", from.Name, url, response.Status, body)
	}
	return string(body), err
}

// client is the address that a server sees when it is asked from a namespace.
func client(ctx context.Context, from *topology.Namespace, at netip.AddrPort) (netip.Addr, error) {
	body, err := get(ctx, from, at, "/clientip")
	if err != nil {
		return netip.Addr{}, err
	}
	seen, err := netip.ParseAddrPort(body)
	return seen.Addr().Unmap(), err
}
