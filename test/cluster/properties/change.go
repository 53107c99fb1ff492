package properties

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weft/test/cluster/kube"
)

const (
	home   = "kube-weft" // the daemon's namespace
	daemon = "daemonset/weft"
)

// between is traffic of each family between the two servers.
func (s *Suite) between(ctx context.Context) (*traffic, error) {
	a, b, err := s.pods(ctx)
	if err != nil {
		return nil, err
	}
	var pairs [][2]end
	for i := range a.addrs {
		pairs = append(pairs, [2]end{{a.ns, a.name, a.addrs[i]}, {b.ns, b.name, b.addrs[i]}})
	}
	return startTraffic(ctx, pairs...)
}

// during does something under traffic, of which nothing may be lost.
func (s *Suite) during(ctx context.Context, do func() error) (string, error) {
	t, err := s.between(ctx)
	if err != nil {
		return "", err
	}
	err = do()
	evidence, lost := t.finish(ctx)
	return evidence, errors.Join(err, lost)
}

func podAgain(ctx context.Context, s *Suite) (string, error) {
	before, err := s.pod(ctx, "web-1")
	if err != nil {
		return "", err
	}
	zero := int64(0)
	err = s.Cluster.Client.CoreV1().Pods(space).Delete(ctx, "web-1", metav1.DeleteOptions{GracePeriodSeconds: &zero})
	if err != nil {
		return "", err
	}
	if err := s.workload(ctx); err != nil {
		return "", err
	}
	a, b, err := s.pods(ctx)
	if err != nil {
		return "", err
	}
	_, err = both(ctx, a, b)
	return fmt.Sprintf("%s before, %s after; reached by both families", before.addrs[0], a.addrs[0]), err
}

// workload applies again what may have been deleted.
func (s *Suite) workload(ctx context.Context) error {
	raw, err := manifests.ReadFile("workload.yml")
	if err != nil {
		return err
	}
	return s.apply(ctx, "workload.yml", string(raw))
}

func rollingRestart(ctx context.Context, s *Suite) (string, error) {
	return s.during(ctx, func() error {
		if _, err := s.Cluster.Kubectl(ctx, "-n", home, "rollout", "restart", daemon); err != nil {
			return err
		}
		_, err := s.Cluster.Kubectl(ctx, "-n", home, "rollout", "status", daemon, "--timeout=120s")
		return err
	})
}

// daemonDeleted: the data path stays, and a daemon that comes back takes it over.
func daemonDeleted(ctx context.Context, s *Suite) (string, error) {
	return s.during(ctx, func() error {
		if _, err := s.Cluster.Kubectl(ctx, "-n", home, "delete", daemon, "--timeout=60s"); err != nil {
			return err
		}
		gone := eventually(ctx, patience, "the daemon's pods go", func() error {
			list, err := s.Cluster.Client.CoreV1().Pods(home).List(ctx, metav1.ListOptions{})
			if err == nil && len(list.Items) > 0 {
				err = fmt.Errorf("%d pods are left", len(list.Items))
			}
			return err
		})
		after, err := s.between(ctx) // by new flows, which no cache knows
		if err == nil {
			err = pause(ctx, 5*time.Second)
			_, lost := after.finish(ctx)
			err = errors.Join(err, lost)
		}
		if err := errors.Join(gone, err); err != nil {
			return err
		}
		if err := s.apply(ctx, "weft.yml", s.Manifest); err != nil {
			return err
		}
		_, err = s.Cluster.Kubectl(ctx, "-n", home, "rollout", "status", daemon, "--timeout=120s")
		return err
	})
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func apiServerAway(ctx context.Context, s *Suite) (string, error) {
	const away = 20 * time.Second
	addrs, err := s.service(ctx, "web")
	if err != nil {
		return "", err
	}
	evidence, err := s.during(ctx, func() error {
		a, b, err := s.pods(ctx)
		if err != nil {
			return err
		}
		if err := s.Cluster.APIServer.Stop(); err != nil {
			return err
		}
		for end := time.Now().Add(away); time.Now().Before(end) && err == nil; {
			if _, err = both(ctx, a, b); err == nil {
				err = answerers(ctx, a.ns, netip.AddrPortFrom(addrs[0], port), b.Name)
			}
			err = errors.Join(err, pause(ctx, time.Second))
		}
		return errors.Join(err, s.Cluster.APIServer.Start(), s.apiServerBack(ctx))
	})
	if err != nil {
		return "", err
	}
	if err := s.podsReady(ctx); err != nil {
		return "", err
	}
	_, err = podAgain(ctx, s)
	return fmt.Sprintf("away for %s: %s; pods stayed Ready; a new pod works after", away, evidence), err
}

func (s *Suite) apiServerBack(ctx context.Context) error {
	return eventually(ctx, patience, "the API server is back", func() error {
		return s.Cluster.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// podsReady looks once: nothing may have made a pod unready meanwhile.
func (s *Suite) podsReady(ctx context.Context) error {
	list, err := s.Cluster.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, p := range list.Items {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status != corev1.ConditionTrue {
				return fmt.Errorf("%s/%s is not ready since %s: %s", p.Namespace, p.Name, c.LastTransitionTime, c.Message)
			}
		}
	}
	return nil
}

// nodeAgain takes the last node away with everything on it, and brings it back.
func nodeAgain(ctx context.Context, s *Suite) (string, error) {
	last := s.Cluster.Nodes[len(s.Cluster.Nodes)-1]
	n, err := s.Cluster.Client.CoreV1().Nodes().Get(ctx, last.Name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if err := last.Halt(); err != nil {
		return "", err
	}
	if err := s.Cluster.Client.CoreV1().Nodes().Delete(ctx, last.Name, metav1.DeleteOptions{}); err != nil {
		return "", err
	}
	if err := s.routed(ctx, n.Spec.PodCIDRs, false); err != nil {
		return "", err
	}
	if err := s.Cluster.Reboot(ctx, last); err != nil {
		return "", err
	}
	if err := s.nodesReady(ctx); err != nil {
		return "", err
	}
	return s.visitor(ctx, last, fmt.Sprintf("routes to %s gone from the others, Ready again", n.Spec.PodCIDRs))
}

// podCIDRChanged: a Node's subnets can't be changed in place, but a Node that
// is made anew may have others, while the machine and its daemon go on.
func podCIDRChanged(ctx context.Context, s *Suite) (string, error) {
	last := s.Cluster.Nodes[len(s.Cluster.Nodes)-1]
	nodes := s.Cluster.Client.CoreV1().Nodes()
	before, err := nodes.Get(ctx, last.Name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if err := last.Kubelet.Stop(); err != nil {
		return "", err
	}
	if err := nodes.Delete(ctx, last.Name, metav1.DeleteOptions{}); err != nil {
		return "", err
	}
	fresh := []string{"10.244.200.0/24", "fd00:10:244:c8::/64"}
	_, err = nodes.Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: last.Name, Labels: before.Labels},
		Spec:       corev1.NodeSpec{PodCIDR: fresh[0], PodCIDRs: fresh},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	if err := last.Kubelet.Start(); err != nil {
		return "", err
	}
	if err := s.nodesReady(ctx); err != nil {
		return "", err
	}
	if err := errors.Join(s.routed(ctx, before.Spec.PodCIDRs, false), s.routed(ctx, fresh, true)); err != nil {
		return "", err
	}
	return s.visitor(ctx, last, fmt.Sprintf("%s → %s", before.Spec.PodCIDRs, fresh))
}

// routed waits until the first node has, or hasn't, a route to each subnet.
func (s *Suite) routed(ctx context.Context, subnets []string, want bool) error {
	return eventually(ctx, patience, fmt.Sprintf("routes to %s: %t", subnets, want), func() error {
		for _, subnet := range subnets {
			out, err := s.Cluster.Nodes[0].Output(ctx, "ip", "route", "show", "root", subnet)
			if strings.Contains(subnet, ":") {
				out, err = s.Cluster.Nodes[0].Output(ctx, "ip", "-6", "route", "show", "root", subnet)
			}
			if err != nil {
				return err
			}
			if have := strings.TrimSpace(out) != ""; have != want {
				return fmt.Errorf("%s: have %q", subnet, strings.TrimSpace(out))
			}
		}
		return nil
	})
}

// visitor runs a server on a node for a moment, and asks it from another.
func (s *Suite) visitor(ctx context.Context, m *kube.Machine, evidence string) (_ string, err error) {
	raw, err := manifests.ReadFile("workload.yml")
	if err != nil {
		return "", err
	}
	for d := range strings.SplitSeq(string(raw), "\n---\n") {
		if strings.Contains(d, "name: web-1\n") {
			d = strings.NewReplacer("web-1", "visitor", "node-1", m.Name, "app: web,", "").Replace(d)
			if err := s.apply(ctx, "visitor.yml", d); err != nil {
				return "", err
			}
		}
	}
	defer func() {
		_, e := s.Cluster.Kubectl(ctx, "-n", space, "delete", "pod", "visitor", "--timeout=60s")
		err = errors.Join(err, e)
	}()
	v, err := s.pod(ctx, "visitor")
	if err != nil {
		return "", err
	}
	a, err := s.pod(ctx, "web-1")
	if err != nil {
		return "", err
	}
	_, err = both(ctx, a, v)
	return fmt.Sprintf("%s; a pod there has %s, reached by both families", evidence, v.addrs), err
}
