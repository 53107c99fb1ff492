package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/weftnet/weft/backend"
	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/version"
)

// Offline tells of a node whose daemon doesn't run: what the disk remembers, and
// what of it stands in the kernel. It writes nothing.
type Offline struct {
	Kernel               dataplane.Kernel
	Backends             map[string]backend.Backend
	SubnetFile, StateDir string
}

// KernelStatus is what of weft's stands in the kernel.
type KernelStatus struct {
	Links  []string `json:"links"` // "flannel.1 up, MTU 1450"
	FDB    int      `json:"fdb"`
	Neighs int      `json:"neighs"`
	Routes int      `json:"routes"`
	Chains int      `json:"chains"`
}

// Status is as that of a daemon, as far as can be told without one. An error
// means that nothing tells which network was here, or that the kernel can't be
// read.
func (o Offline) Status(ctx context.Context) (Status, error) {
	c := Cleanup{Kernel: o.Kernel, Backends: o.Backends, SubnetFile: o.SubnetFile, StateDir: o.StateDir}
	had, err := c.remember()
	if err != nil {
		return Status{}, err
	}
	if len(had.config.Networks) == 0 {
		return Status{}, fmt.Errorf("neither %s nor %s tells of a network", o.StateDir, o.SubnetFile)
	}
	s := Status{
		Version: version.Short(), Source: "the kernel, " + o.StateDir + " and " + o.SubnetFile,
		Reasons: []string{"weftd doesn't answer: pods' packets go on, and no change of the cluster is followed"},
		Node:    NodeStatus{Lease: had.lease.ID, Backend: had.config.Backend},
	}
	for _, p := range had.subnets {
		s.Node.Subnets = append(s.Node.Subnets, p.String())
	}
	for _, share := range had.lease.Shares {
		s.Node.Public = append(s.Node.Public, share.Public.String())
	}
	env, err := readEnv(o.SubnetFile)
	switch {
	case err == nil:
		s.Node.MTU = env.MTU
	case errors.Is(err, os.ErrNotExist):
		s.Reasons = append(s.Reasons, o.SubnetFile+" is missing: the CNI plugin can attach no pod")
	default:
		s.Reasons = append(s.Reasons, err.Error())
	}
	domain, err := domainOf(had.config, o.Backends)
	if err != nil {
		return s, fmt.Errorf("find what is weft's on this host: %w", err)
	}
	seen, err := o.Kernel.Observe(ctx, dataplane.Scope{All: true, Domain: domain})
	if err != nil {
		return s, fmt.Errorf("read the kernel: %w", err)
	}
	s.fillKernel(seen.Have)
	for name := range domain.Links {
		if !seen.Have.Links[name].Up {
			s.Reasons = append(s.Reasons, "the device "+name+" is missing or down")
		}
	}
	slices.Sort(s.Reasons[1:])
	return s, nil
}

func (s *Status) fillKernel(have dataplane.State) {
	s.Kernel = &KernelStatus{
		Links: []string{}, FDB: len(have.FDB), Neighs: len(have.Neighs), Routes: len(have.Routes), Chains: len(have.Chains),
	}
	for name, l := range have.Links {
		state := "down"
		if l.Up {
			state = "up"
		}
		s.Kernel.Links = append(s.Kernel.Links, fmt.Sprintf("%s %s, MTU %d", name, state, l.MTU))
		s.Node.Uplink = l.Parent
		s.Node.Local = append(s.Node.Local, l.Local.String())
	}
	slices.Sort(s.Kernel.Links)
	slices.Sort(s.Node.Local)
}
