package properties

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// omitted are the cases that don't fit such a cluster. The first pattern that
// matches a case's name gives the reason.
func omitted() []omission {
	return []omission{
		{`\[Feature:(Cloud|LoadBalancer|Ingress|GCE)|LoadBalancer`, "needs a cloud's load balancers"},
		{`\[Feature:SCTP|SCTP`, "the kernel of the test machine has no SCTP"},
		{`NetworkPolicy|Netpol|ClusterNetworkPolicy`, "weft does not enforce NetworkPolicy, as flannel doesn't"},
		{`IPVS|ipvs`, "the kernel of the test machine has no IPVS"},
		{`\[Feature:Networking-IPv6\]|\[Feature:Networking-DNS\]|external|Internet|Networking-Performance|iperf`,
			"needs the Internet, or measures it"},
		{`\[Feature:NoSNAT\]`, "needs a public address per node"},
		{`Topology (Hints|Routing)|Traffic ?Distribution|topology-aware|zone`, "needs zones"},
		{`\[Serial\]|\[Disruptive\]|\[Slow\]`, "slow, or disturbs the cases beside it; the properties above disturb"},
		{`\[Alpha\]|\[Beta\]|FeatureGate|OffByDefault`, "an API that is off by default"},
		{`\[Deprecated\]`, "deprecated"},
		{`kube-dns|Federations|DNS configMap|\[Feature:DNS`, "changes a cluster's DNS in the ways of kube-dns"},
	}
}

type omission struct{ pattern, why string }

// spec is a case as ginkgo reports it.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	RunTime                 time.Duration
	Failure                 struct{ Message string }
}

func (s spec) name() string {
	return strings.TrimSpace(strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " "))
}

// SIGNetwork runs the cases of Kubernetes' own suite that fit, and lists them.
// focus is a regular expression of names.
func (s *Suite) SIGNetwork(ctx context.Context, program, dir, focus string) error {
	var skip []string
	for _, o := range omitted() {
		skip = append(skip, o.pattern)
	}
	log, err := os.Create(filepath.Join(dir, "signetwork.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	report := filepath.Join(dir, "signetwork.json")
	cmd := exec.Command(program, "-test.timeout=0", "--provider=skeleton",
		"--kubeconfig="+s.Cluster.Nodes[0].Path("/etc/kubernetes/admin.conf"),
		"--kubectl-path="+filepath.Join(filepath.Dir(program), "kubectl"),
		"--ginkgo.focus="+focus, "--ginkgo.skip="+strings.Join(skip, "|"), "--ginkgo.no-color",
		"--ginkgo.timeout=60m", "--ginkgo.json-report="+report, "--delete-namespace-on-failure=true",
		"--disable-log-dump", "--allowed-not-ready-nodes=0")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p, err := s.Cluster.Outside.Start(cmd)
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.Signal(os.Kill), p.Err())
	}
	raw, err := os.ReadFile(report)
	if err != nil {
		return fmt.Errorf("sig-network: %w: %s", errors.Join(p.Err(), err), tail(log.Name()))
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(raw, &suites); err != nil {
		return err
	}
	var specs []spec
	for _, r := range suites {
		specs = append(specs, r.SpecReports...)
	}
	return list(s.Out, specs)
}

func tail(file string) string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	const most = 4 << 10
	return string(raw[max(0, len(raw)-most):])
}

// list prints the cases that ran one by one, and the others by their reasons.
func list(out io.Writer, specs []spec) error {
	counts, skipped := map[string]int{}, map[string]int{}
	slices.SortFunc(specs, func(a, b spec) int { return cmp.Compare(a.name(), b.name()) })
	fmt.Fprintf(out, "\nKubernetes' own cases of sig-network\n")
	for _, c := range specs {
		if c.LeafNodeType != "It" || !strings.Contains(c.name(), "[sig-network]") {
			if c.State == "failed" {
				counts["failed"]++
				fmt.Fprintf(out, "failed   %s: %s\n", c.LeafNodeType, c.Failure.Message)
			}
			continue
		}
		why := reason(c)
		switch {
		case why != "" && (c.State == "skipped" || c.State == "pending"):
			counts["skipped"]++
			skipped[why]++
		case c.State == "passed" || c.State == "skipped":
			counts[c.State]++
			fmt.Fprintf(out, "%-8s %s (%s) %s\n", c.State, c.name(), c.RunTime.Round(100*time.Millisecond), c.Failure.Message)
		case c.State == "pending":
		default:
			counts["failed"]++
			fmt.Fprintf(out, "%-8s %s (%s): %s\n", "failed", c.name(), c.RunTime.Round(100*time.Millisecond), c.Failure.Message)
		}
	}
	for why, n := range skipped {
		fmt.Fprintf(out, "skipped  %d: %s\n", n, why)
	}
	fmt.Fprintf(out, "sig-network: %d passed, %d failed, %d skipped\n",
		counts["passed"], counts["failed"], counts["skipped"])
	if counts["failed"] > 0 {
		return fmt.Errorf("%d cases of sig-network fail", counts["failed"])
	}
	return nil
}

// reason is why a case is left out, if it is.
func reason(c spec) string {
	for _, o := range omitted() {
		if regexp.MustCompile(o.pattern).MatchString(c.name()) {
			return o.why
		}
	}
	return ""
}
