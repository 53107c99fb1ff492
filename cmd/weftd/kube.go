package main

import (
	"flag"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/kube"
)

func (s *settings) kubeFlags(fs *flag.FlagSet) {
	fs.BoolVar(&s.kube, "kube-subnet-mgr", false, "take the leases from the Nodes of Kubernetes instead of etcd")
	fs.StringVar(&s.kubeOptions.URL, "kube-api-url", "",
		"`URL` of the API server (default: what the pod's service account says)")
	fs.StringVar(&s.kubeOptions.Kubeconfig, "kubeconfig-file", "", "`file` as kubectl has it, outside of a pod")
	fs.StringVar(&s.kubeOptions.Prefix, "kube-annotation-prefix", "flannel.alpha.coreos.com",
		"`prefix` of the Nodes' annotations: DOMAIN or DOMAIN/NAME")
	fs.StringVar(&s.kubeOptions.ConfigFile, "net-config-path", "/etc/kube-flannel/net-conf.json",
		"`file` with the network configuration, from a ConfigMap; its changes are followed")
	fs.BoolVar(&s.kubeOptions.KeepCondition, "set-node-network-unavailable", true,
		"keep our Node's condition NetworkUnavailable true to whether pods can be served")
}

// nodeFrom takes from the environment which Node is ours, by the names that
// flannel's manifest has.
func (s *settings) nodeFrom(environ []string) {
	for _, e := range environ {
		switch name, value, _ := strings.Cut(e, "="); name {
		case "NODE_NAME":
			s.kubeOptions.Node = value
		case "POD_NAME":
			s.kubeOptions.PodName = value
		case "POD_NAMESPACE":
			s.kubeOptions.PodSpace = value
		}
	}
}

// closer is a store with a connection.
type closer interface {
	subnet.Store
	Close() error
}

func openStore(s settings, log logrus.FieldLogger) (closer, error) {
	if !s.kube {
		return openEtcd(s, log)
	}
	s.kubeOptions.Log = log
	store, err := kube.New(s.kubeOptions)
	if err != nil {
		return nil, err
	}
	return store, nil
}
