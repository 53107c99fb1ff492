package cniplugin

import (
	"errors"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/hostports"
)

// addPorts leads the host's ports to the pod. A port that still leads to a pod
// that is gone is taken over: reap removes what the dead have.
func (k *kernel) addPorts(a attachment.Attachment, reap func() error) error {
	if len(a.Ports) == 0 {
		return nil
	}
	ports, err := hostports.Open()
	if err == nil {
		err = ports.Add(a)
	}
	if errors.As(err, new(*hostports.TakenError)) {
		if err := reap(); err != nil {
			return err
		}
		err = ports.Add(a)
	}
	if errors.As(err, new(*hostports.TakenError)) {
		return types.NewError(codeTaken, err.Error(),
			"delete that pod first, or use another hostPort; see nft list table inet "+hostports.Table)
	}
	if err != nil {
		return refused("lead host ports to the pod", err)
	}
	return forgetUDP(a)
}

// removeAnyPorts takes host ports away, ours or portmap's: a pod has but one of
// them.
func (k *kernel) removeAnyPorts(network string, req request, a attachment.Attachment, ours bool) error {
	if len(a.Ports) > 0 {
		return k.removePorts(a)
	}
	return k.removePortmaps(network, req, ours)
}

// removePorts takes the host's ports away from the pod.
func (k *kernel) removePorts(a attachment.Attachment) error { return k.takePorts(a, false) }

// removePortsAgain does so when the pod's link is gone: weftd may have missed
// them while it was there, and put them back.
func (k *kernel) removePortsAgain(a attachment.Attachment) error { return k.takePorts(a, true) }

func (k *kernel) takePorts(a attachment.Attachment, again bool) error {
	if len(a.Ports) == 0 {
		return nil
	}
	removed := false
	ports, err := hostports.Open()
	if err == nil {
		k.later = append(k.later, ports.Close)
		removed, err = ports.Remove(a)
	}
	if err != nil {
		return refused("remove the pod's host ports", err)
	}
	if again && !removed {
		return nil
	}
	return forgetUDP(a)
}

func forgetUDP(a attachment.Attachment) error {
	if err := hostports.ForgetUDP(a, false); err != nil {
		return refused("forget UDP connections to the pod's host ports", err)
	}
	return nil
}

// addrsOf are a record's addresses, bare.
func addrsOf(a attachment.Attachment) []netip.Addr {
	var out []netip.Addr
	for _, p := range a.Addrs {
		out = append(out, p.Addr())
	}
	return out
}
