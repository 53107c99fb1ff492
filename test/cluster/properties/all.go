package properties

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// all is the table. What changes kube-proxy's mode comes after what is looked
// at in the mode that the cluster was started with.
func all() []property {
	return []property{
		{"nodes Ready", nodesAreReady},
		{"pod to pod across nodes, no NAT", podToPod},
		{"node to pod", nodeToPod},
		{"Service ClusterIP", clusterIP},
		{"Service headless", headless},
		{"Service NodePort from outside", nodePort},
		{"externalTrafficPolicy Local", policyLocal},
		{"DNS by name", dnsByName},
		{"egress masqueraded", egress},
		{"hostPort", hostPort},
		{"two containers by localhost", localhost},
		{"reverse proxy in a pod, from outside", ingress},
		{"an idle cluster writes nothing", idle},
		{"pod deleted and created again", podAgain},
		{"rolling restart under traffic", rollingRestart},
		{"API server away", apiServerAway},
		{"DaemonSet deleted under traffic", daemonDeleted},
		{"node removed and added again", nodeAgain},
		{"podCIDR changed", podCIDRChanged},
		{"kube-proxy in iptables mode", proxyMode("iptables")},
		{"kube-proxy in nftables mode", proxyMode("nftables")},
	}
}

// proxyMode looks at all that kube-proxy has a hand in again, in a mode.
func proxyMode(mode string) func(context.Context, *Suite) (string, error) {
	return func(ctx context.Context, s *Suite) (string, error) {
		if err := s.Cluster.ProxyMode(ctx, mode); err != nil {
			return "", err
		}
		looks := []property{
			{"pod to pod", podToPod}, {"ClusterIP", clusterIP}, {"NodePort", nodePort}, {"policy Local", policyLocal},
			{"DNS", dnsByName}, {"egress", egress}, {"hostPort", hostPort}, {"reverse proxy", ingress},
		}
		var names []string
		for _, p := range looks {
			err := eventually(ctx, 30*time.Second, p.name, func() error {
				_, err := p.look(ctx, s)
				return err
			})
			if err != nil {
				return "", err
			}
			names = append(names, p.name)
		}
		return "again: " + strings.Join(names, ", "), nil
	}
}

// idle counts what the daemons write while nothing happens.
func idle(ctx context.Context, s *Suite) (string, error) {
	const watched = time.Minute
	from := time.Now()
	if err := pause(ctx, watched); err != nil {
		return "", err
	}
	writes, others, err := s.Cluster.Writes(from, "system:serviceaccount:"+home+":")
	if err != nil {
		return "", err
	}
	if len(writes) > 0 {
		return "", fmt.Errorf("%d writes in %s: %s", len(writes), watched, strings.Join(writes, ", "))
	}
	if others == 0 {
		return "", fmt.Errorf("the audit log shows nobody's writes, so it proves nothing")
	}
	return fmt.Sprintf("0 of the daemons' in %s, by the audit log (%d of others)", watched, others), nil
}
