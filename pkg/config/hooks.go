package config

import (
	"slices"

	"gopkg.in/yaml.v3"
)

// Hooks are commands for what happens to a service and to its reals: argument
// vectors, run one after the other.
type Hooks struct {
	QuorumUp, QuorumDown [][]string
	RealUp, RealDown     [][]string // for reals that have none of their own
	AtStop               bool       // run those for down when the director stops
}

// RealHooks are commands for what happens to one real.
type RealHooks struct {
	Up, Down [][]string
}

// RoleHooks are commands for the roles of a VRRP instance. Stop is for when the
// director stops or the instance ends.
type RoleHooks struct {
	Master, Backup, Fault, Stop [][]string
}

// Commands are those of r for a role, in the words of [vrrp.Role].
func (r RoleHooks) Commands(role string) [][]string {
	switch role {
	case "MASTER":
		return r.Master
	case "BACKUP":
		return r.Backup
	case "FAULT":
		return r.Fault
	}
	return r.Stop
}

// Programs lists the programs of all hooks, BGP's too, and of VRRP's track_exec,
// each once.
func (c *Config) Programs() []string {
	var all []string
	add := func(commands ...[][]string) {
		for _, argv := range slices.Concat(commands...) {
			if !slices.Contains(all, argv[0]) {
				all = append(all, argv[0])
			}
		}
	}
	for i := range c.Services {
		s := &c.Services[i]
		add(s.Hooks.QuorumUp, s.Hooks.QuorumDown, s.Hooks.RealUp, s.Hooks.RealDown)
		for _, r := range s.Own {
			add(r.Hooks.Up, r.Hooks.Down)
		}
	}
	for _, inst := range c.VRRP {
		r := c.RoleHooks[inst.Name]
		add(r.Master, r.Backup, r.Fault, r.Stop)
		for _, t := range inst.TrackExec {
			add([][]string{t.Argv})
		}
	}
	if len(c.BGP.Hook.Exec) > 0 {
		add([][]string{c.BGP.Hook.Exec})
	}
	return all
}

// hooks reads the hooks of a service.
func hooks(c *cursor) Hooks {
	o := c.object()
	h := Hooks{
		QuorumUp:   get(o, "quorum_up", nil, commands),
		QuorumDown: get(o, "quorum_down", nil, commands),
		RealUp:     get(o, "real_up", nil, commands),
		RealDown:   get(o, "real_down", nil, commands),
		AtStop:     get(o, "at_stop", false, boolean),
	}
	o.done()
	return h
}

// realHooks reads the hooks of a real.
func realHooks(c *cursor) RealHooks {
	o := c.object()
	h := RealHooks{Up: get(o, "up", nil, commands), Down: get(o, "down", nil, commands)}
	o.done()
	return h
}

// roleHooks reads the hooks of a virtual router.
func roleHooks(c *cursor) RoleHooks {
	o := c.object()
	h := RoleHooks{
		Master: get(o, "master", nil, commands),
		Backup: get(o, "backup", nil, commands),
		Fault:  get(o, "fault", nil, commands),
		Stop:   get(o, "stop", nil, commands),
	}
	o.done()
	return h
}

// commands reads an argument vector, or a list of argument vectors.
func commands(c *cursor) [][]string {
	if c.node.Kind == yaml.SequenceNode && len(c.node.Content) > 0 && target(c.node.Content[0]).Kind == yaml.SequenceNode {
		return list(vector)(c)
	}
	return [][]string{vector(c)}
}

// vector reads a program and its arguments.
func vector(c *cursor) []string {
	if c.node.Kind != yaml.SequenceNode || len(c.node.Content) == 0 {
		c.errorf("%s (want a list: the program and each of its arguments)", found(c.node))
		return nil
	}
	argv := list(line)(c)
	if argv[0] == "" || argv[0][0] != '/' {
		c.entry(c.node.Content[0], 0).errorf("%s is not an absolute path (want one that begins with /)", quoted(argv[0]))
	}
	return argv
}
