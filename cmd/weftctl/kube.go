package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/weftnet/weft/subnet/kube"
)

// kubeFlags say where the Nodes of Kubernetes are, by the names and from the
// environment that weftd has for it.
type kubeFlags struct {
	use     bool
	options kube.Options
}

func (f *kubeFlags) register(flags *pflag.FlagSet) {
	use, _ := strconv.ParseBool(setting("KUBE_SUBNET_MGR", "false")) // of nonsense weftd complains
	flags.BoolVar(&f.use, "kube-subnet-mgr", use, "take the leases from the Nodes of Kubernetes instead of etcd")
	flags.StringVar(&f.options.URL, "kube-api-url", setting("KUBE_API_URL", ""),
		"`URL` of the API server (default: what the pod's service account says)")
	flags.StringVar(&f.options.Kubeconfig, "kubeconfig-file", setting("KUBECONFIG_FILE", ""),
		"`file` as kubectl has it, outside of a pod")
	flags.StringVar(&f.options.Prefix, "kube-annotation-prefix",
		setting("KUBE_ANNOTATION_PREFIX", "flannel.alpha.coreos.com"),
		"`prefix` of the Nodes' annotations: DOMAIN or DOMAIN/NAME")
	flags.StringVar(&f.options.ConfigFile, "net-config-path",
		setting("NET_CONFIG_PATH", "/etc/kube-flannel/net-conf.json"),
		"`file` with the network configuration, by which leases are judged")
}

// with opens a reader for one command.
func (f *kubeFlags) with(
	ctx context.Context, timeout time.Duration, do func(context.Context, *kube.Reader) error,
) error {
	o := f.options
	o.Node, o.PodName, o.PodSpace = os.Getenv("NODE_NAME"), os.Getenv("POD_NAME"), os.Getenv("POD_NAMESPACE")
	reader, err := kube.NewReader(o)
	if err != nil {
		return err
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = do(ctx, reader)
	_, unreached := errors.AsType[*net.OpError](err)
	if unreached || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the API server does not answer; is it up, and are --kube-api-url and "+
			"--kubeconfig-file right? (%w)", err)
	}
	return err
}
