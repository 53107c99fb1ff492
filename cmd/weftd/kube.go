package main

import (
	"flag"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/weftnet/weft/pkg/metrics"
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

// variable is one of the environment that no flag stands for.
type variable struct {
	name, meaning string
	to            *string
}

// nodeVariables tell which Node is ours, by the names that flannel's manifest
// has.
func (s *settings) nodeVariables() []variable {
	return []variable{
		{"NODE_NAME", "name of our Node", &s.kubeOptions.Node},
		{"POD_NAME", "without it: name of weftd's own pod, which tells the Node", &s.kubeOptions.PodName},
		{"POD_NAMESPACE", "namespace of that pod", &s.kubeOptions.PodSpace},
	}
}

// nodeFrom takes them from the environment.
func (s *settings) nodeFrom(environ []string) {
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		for _, v := range s.nodeVariables() {
			if v.name == name {
				*v.to = value
			}
		}
	}
}

// closer is a store with a connection.
type closer interface {
	subnet.Store
	Close() error
}

func openStore(s settings, took *metrics.Meter, log logrus.FieldLogger) (closer, error) {
	if !s.kube {
		return openEtcd(s, took, log)
	}
	s.kubeOptions.Log, s.kubeOptions.Took = log, took.Observe
	store, err := kube.New(s.kubeOptions)
	if err != nil {
		return nil, err
	}
	return store, nil
}
