package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// Rewrite is the text of a configuration, whose meaning is from, with the
// services and timeouts of to: weights and other values of reals, reals and
// services that are new or gone, settings of services. Everything else stays as
// it is written, comments too. The result is read again; if it does not mean
// what it should, that is an error.
func Rewrite(text []byte, from, to *Config) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("configuration: not a mapping")
	}
	root := doc.Content[0]
	expandAliases(root)
	inlineMerges(root)
	if from.Timeouts != to.Timeouts {
		setNode(root, "timeouts", timeoutsNode(to.Timeouts))
	}
	rewriteServices(root, from, to)
	out, err := encode(&doc)
	if err != nil {
		return nil, err
	}
	return out, checkRewritten(out, to)
}

// Services writes services as a file has them, under the key of that name.
func Services(all []Service) ([]byte, error) {
	root := &yaml.Node{Kind: yaml.MappingNode}
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range all {
		list.Content = append(list.Content, serviceNode(&all[i]))
	}
	setNode(root, "services", list)
	return encode(root)
}

// ServicesOf is what a text says of some services, under the key of that name.
func ServicesOf(text []byte, names map[string]bool) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(doc.Content) != 1 {
		return nil, errors.New("configuration: empty")
	}
	all := listAt(doc.Content[0], "services")
	all.Content = slices.DeleteFunc(all.Content, func(n *yaml.Node) bool {
		name := keyed(n, "name")
		return name == nil || !names[name.Value]
	})
	all.Style = listStyle(all.Content)
	root := &yaml.Node{Kind: yaml.MappingNode}
	setNode(root, "services", all)
	return encode(root)
}

func encode(n *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return b.Bytes(), e.Close()
}

// checkRewritten reads what was written.
func checkRewritten(text []byte, want *Config) error {
	got, err := Parse("the configuration as written", text)
	if err != nil {
		return err
	}
	if len(got.Services) != len(want.Services) || got.Timeouts != want.Timeouts {
		return fmt.Errorf("%d services were written as %d", len(want.Services), len(got.Services))
	}
	for i := range want.Services {
		if !reflect.DeepEqual(got.Services[i].Service, want.Services[i].Service) {
			return fmt.Errorf("service %s cannot be written in the file's form: %+v would become %+v", want.Services[i].Name, want.Services[i].Service, got.Services[i].Service)
		}
		if !got.Services[i].isCheckedAs(&want.Services[i]) {
			return fmt.Errorf("service %s cannot be written in the file's form: its checks or its quorum would be others", want.Services[i].Name)
		}
	}
	return nil
}

// isCheckedAs reports whether a service with the same reals as o has the same checks,
// and the same follows from them. Hooks are left out: a file that is not root's alone
// has them, and its configuration has not.
func (s *Service) isCheckedAs(o *Service) bool {
	same := s.OnDown == o.OnDown && s.Quorum == o.Quorum && s.Hysteresis == o.Hysteresis && s.ForceClaim == o.ForceClaim
	for i := range s.Reals {
		same = same && slices.Equal(s.checksOf(i), o.checksOf(i)) && s.RealOnDown(i) == o.RealOnDown(i)
	}
	return same
}

// checksOf are the checks of the i-th real.
func (s *Service) checksOf(i int) []health.Spec {
	if i >= len(s.Checks) {
		return nil
	}
	return s.Checks[i]
}

// expandAliases puts copies in the place of aliases: what is edited is edited
// in one place.
func expandAliases(n *yaml.Node) {
	for i, c := range n.Content {
		if c.Kind == yaml.AliasNode {
			n.Content[i] = cloneNode(c.Alias)
		}
		expandAliases(n.Content[i])
	}
	n.Anchor = ""
}

func cloneNode(n *yaml.Node) *yaml.Node {
	c := *n
	c.Content = make([]*yaml.Node, len(n.Content))
	for i := range n.Content {
		c.Content[i] = cloneNode(n.Content[i])
	}
	return &c
}

// inlineMerges puts the keys of merged mappings ("<<") where these are merged.
func inlineMerges(n *yaml.Node) {
	for _, c := range n.Content {
		inlineMerges(c)
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	own := *n
	own.Content = nil
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			own.Content = append(own.Content, n.Content[i:i+2]...)
		}
	}
	if len(own.Content) == len(n.Content) {
		return
	}
	written := n.Content
	n.Content = nil
	for i := 0; i+1 < len(written); i += 2 {
		k, v := written[i], written[i+1]
		if !isMerge(k) {
			n.Content = append(n.Content, k, v)
			continue
		}
		all := []*yaml.Node{v}
		if v.Kind == yaml.SequenceNode {
			all = v.Content
		}
		for _, m := range all {
			for j := 0; j+1 < len(m.Content); j += 2 { // what is there already stays
				if name := m.Content[j].Value; keyed(&own, name) == nil && keyed(n, name) == nil {
					n.Content = append(n.Content, m.Content[j:j+2]...)
				}
			}
		}
	}
}

func isMerge(key *yaml.Node) bool { return key.ShortTag() == "!!merge" }

// keyed finds the value of a key in a mapping; nil if there is none.
func keyed(m *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

// setNode sets a key of a mapping; a nil value removes it.
func setNode(m *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value != key {
			continue
		}
		if value == nil {
			m.Content = append(m.Content[:i:i], m.Content[i+2:]...)
			return
		}
		value.HeadComment, value.LineComment, value.FootComment = m.Content[i+1].HeadComment, m.Content[i+1].LineComment, m.Content[i+1].FootComment
		m.Content[i+1] = value
		return
	}
	if value != nil {
		m.Content = append(m.Content, scalar(key), value)
	}
}

// listAt is the list at a key of a mapping: a new one if there is none, or one of the
// single mapping that is there.
func listAt(m *yaml.Node, key string) *yaml.Node {
	list := keyed(m, key)
	if list != nil && list.Kind == yaml.SequenceNode {
		return list
	}
	made := &yaml.Node{Kind: yaml.SequenceNode}
	if list != nil && list.Kind == yaml.MappingNode {
		made.Content = []*yaml.Node{list}
	}
	setNode(m, key, made)
	return made
}

func scalar(text string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: text} }

func quotedScalar(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Value: text, Style: yaml.DoubleQuotedStyle}
}

func number32(n uint32) *yaml.Node { return scalar(strconv.FormatUint(uint64(n), 10)) }

func seconds(d time.Duration) *yaml.Node { return scalar(fmt.Sprintf("%ds", d/time.Second)) }

// listStyle is a line for each value, and "[]" for none.
func listStyle(values []*yaml.Node) yaml.Style {
	if len(values) == 0 {
		return yaml.FlowStyle
	}
	return 0
}

func timeoutsNode(t lb.Timeouts) *yaml.Node {
	t = t.WithDefaults()
	m := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	setNode(m, "tcp", seconds(t.TCP))
	setNode(m, "tcp_fin", seconds(t.TCPFin))
	setNode(m, "udp", seconds(t.UDP))
	return m
}

func rewriteServices(root *yaml.Node, from, to *Config) {
	list := listAt(root, "services")
	was := make(map[string]*Service, len(from.Services))
	nodes := make(map[string]*yaml.Node, len(from.Services))
	for i := range from.Services {
		was[from.Services[i].Name] = &from.Services[i]
	}
	for _, n := range list.Content {
		if name := keyed(n, "name"); name != nil {
			nodes[name.Value] = n
		}
	}
	list.Content = list.Content[:0:0]
	for i := range to.Services {
		s := &to.Services[i]
		n := nodes[s.Name]
		if n == nil {
			n = serviceNode(s)
		} else if before := was[s.Name]; before != nil {
			rewriteService(n, before, s)
		}
		list.Content = append(list.Content, n)
	}
	list.Style = listStyle(list.Content)
}

// rewriteService makes the node of a service say what is different about it.
func rewriteService(n *yaml.Node, from, to *Service) {
	if from.Scheduler != to.Scheduler || from.Flags != to.Flags {
		setNode(n, "scheduler", scalar(string(to.Scheduler)))
		setNode(n, "flags", flagsNode(to.Flags))
	}
	if from.OnePacket != to.OnePacket {
		setNode(n, "ops", scalar(strconv.FormatBool(to.OnePacket)))
	}
	if from.Stateless != to.Stateless {
		setNode(n, "stateless", scalar(strconv.FormatBool(to.Stateless)))
	}
	if from.Persistence != to.Persistence {
		setNode(n, "persistence", persistenceNode(&to.Service))
	}
	if reflect.DeepEqual(from.Reals, to.Reals) {
		return
	}
	list := listAt(n, "reals")
	hasCheck := keyed(n, "check") != nil
	var reals []*yaml.Node
	for _, r := range to.Reals {
		reals = append(reals, rewriteReal(list, from, r, hasCheck))
	}
	list.Content = reals
	list.Style = listStyle(reals)
}

// rewriteReal is the node of a real, from the list that has it so far. A real of
// ipvsadm's has no checks, also where the service has one.
func rewriteReal(list *yaml.Node, from *Service, r lb.Real, hasCheck bool) *yaml.Node {
	for i, was := range from.Reals {
		if !was.Same(r) || i >= len(list.Content) {
			continue
		}
		n := list.Content[i]
		if n.Kind != yaml.MappingNode {
			break
		}
		if was.Weight != r.Weight {
			setNode(n, "weight", number32(uint32(r.Weight)))
		}
		if was.Forward != r.Forward || was.Encap != r.Encap {
			setWay(n, r)
		}
		if was.Upper != r.Upper || was.Lower != r.Lower {
			setThresholds(n, r)
		}
		return n
	}
	n := realNode(r)
	setWay(n, r) // the service's may be another
	if hasCheck {
		setNode(n, "check", &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle})
	}
	return n
}

// setWay writes how packets get to r, as a whole: nothing of it is the service's.
func setWay(n *yaml.Node, r lb.Real) {
	setNode(n, "forward", scalar(r.Way()))
	if r.Encap.Kind == lb.IPIP {
		setNode(n, "tunnel", nil)
		return
	}
	made := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	if r.Encap.Kind == lb.GUE {
		setNode(made, "port", number32(uint32(r.Encap.Port)))
	}
	setNode(made, "checksum", scalar(r.Encap.Checksum.String()))
	setNode(n, "tunnel", made)
}

func setThresholds(n *yaml.Node, r lb.Real) {
	setNode(n, "upper_threshold", number32(r.Upper))
	setNode(n, "lower_threshold", number32(r.Lower))
}

func realNode(r lb.Real) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	address := scalar(r.Addr.String())
	if r.Addr.Is6() {
		address = quotedScalar(r.Addr.String())
	}
	setNode(n, "address", address)
	if r.Port != 0 {
		setNode(n, "port", number32(uint32(r.Port)))
	}
	setNode(n, "weight", number32(uint32(r.Weight)))
	if r.Upper != 0 || r.Lower != 0 {
		setThresholds(n, r)
	}
	return n
}

func serviceNode(s *Service) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	setNode(n, "name", scalar(s.Name))
	listen := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, l := range s.Listeners {
		listen.Content = append(listen.Content, quotedScalar(l.String()))
	}
	setNode(n, "listen", listen)
	if s.Mark != 0 {
		setNode(n, "mark", number32(s.Mark))
	}
	setNode(n, "scheduler", scalar(string(s.Scheduler)))
	setNode(n, "flags", flagsNode(s.Flags))
	if s.OnePacket {
		setNode(n, "ops", scalar("true"))
	}
	if s.Stateless {
		setNode(n, "stateless", scalar("true"))
	}
	if s.Persistence.Enabled() {
		setNode(n, "persistence", persistenceNode(&s.Service))
	}
	reals := &yaml.Node{Kind: yaml.SequenceNode}
	for _, r := range s.Reals {
		real := realNode(r)
		if r.Forward != lb.DR {
			setWay(real, r)
		}
		reals.Content = append(reals.Content, real)
	}
	reals.Style = listStyle(reals.Content)
	setNode(n, "reals", reals)
	return n
}

// flagsNode is nil without flags.
func flagsNode(f lb.SchedFlags) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, known := range []struct {
		flag lb.SchedFlags
		name string
	}{{lb.SHFallback, "sh-fallback"}, {lb.SHPort, "sh-port"}, {lb.MHFallback, "mh-fallback"}, {lb.MHPort, "mh-port"}} {
		if f&known.flag != 0 {
			n.Content = append(n.Content, scalar(known.name))
		}
	}
	if len(n.Content) == 0 {
		return nil
	}
	return n
}

// persistenceNode is nil without persistence.
func persistenceNode(s *lb.Service) *yaml.Node {
	if !s.Persistence.Enabled() {
		return nil
	}
	n := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	setNode(n, "timeout", seconds(s.Persistence.Timeout))
	if p := s.Persistence.Prefix; p != 0 {
		setNode(n, "netmask", scalar(strconv.Itoa(p)))
	}
	return n
}
