package keepalived

import (
	"slices"
	"strconv"
	"strings"
)

// roleHook is a command of a VRRP instance for one of its roles.
type roleHook struct {
	role string
	argv []string
}

// roles are lvx's words for what keepalived tells a script.
var roles = []struct{ role, state string }{{"master", "MASTER"}, {"backup", "BACKUP"}, {"fault", "FAULT"}, {"stop", "STOP"}}

// notified reads whom the instance, or its group, tells. A script of notify
// gets the four arguments that keepalived gives it.
func (r *router) notified(block, c *Statement) bool {
	kind, name := "INSTANCE", block.arg(0)
	if block.Word == "vrrp_sync_group" {
		kind = "GROUP"
	}
	switch c.Word {
	case "notify", "notify_master", "notify_backup", "notify_fault", "notify_stop":
		argv, user, ok := command(c)
		switch {
		case !ok || !isPlain(c, argv):
			c.mark(Harmless, "keepalived cannot read the command")
			return true
		case block.children(c.Word)[0] != c:
			c.mark(Harmless, "keepalived takes the first one only")
			return true
		}
		if len(user) > 0 && user[0] != "root" {
			c.mark(Changed, "runs as the daemon's user, not as %s", quote(user[0]))
		}
		for _, w := range roles {
			switch c.Word {
			case "notify":
				with := append(slices.Clone(argv), kind, name, w.state)
				r.all = append(r.all, roleHook{w.role, with})
			case "notify_" + w.role:
				r.hooks = append(r.hooks, roleHook{w.role, argv})
			}
		}
		c.mark(Mapped, "without a shell; the program must belong to root")
	case "smtp_alert":
		r.smtpAlert = c
	default:
		return false
	}
	return true
}

// hookText is the commands of an instance as a map: for each role its own
// command first, then that of notify, as keepalived runs them.
func (r *router) hookText() string {
	var parts []string
	for _, w := range roles {
		var commands []string
		for _, h := range r.hooks {
			if h.role == w.role {
				commands = append(commands, scalars(h.argv))
			}
		}
		for _, h := range r.all {
			if h.role == w.role {
				commands = append(commands, scalars(append(slices.Clone(h.argv), strconv.FormatUint(r.priority, 10))))
			}
		}
		if len(commands) > 0 {
			parts = append(parts, w.role+": ["+strings.Join(commands, ", ")+"]")
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// readSyncGroups puts members into their groups.
func (m *mapper) readSyncGroups() {
	for _, s := range m.all {
		if s.keyword == nil || s.Word != "vrrp_sync_group" {
			continue
		}
		var members []*router
		for _, g := range s.children("group") {
			g.mark(Mapped, "")
			for _, member := range g.Block {
				r := m.routerNamed(member.Word)
				switch {
				case r == nil:
					member.mark(Harmless, "no vrrp_instance of this name")
					continue
				case r.group != "" || slices.Contains(members, r):
					member.mark(Harmless, "keepalived takes the first group of an instance only")
					continue
				}
				member.mark(Mapped, "")
				members = append(members, r)
			}
		}
		m.finishGroup(s, members)
	}
}

func (m *mapper) routerNamed(name string) *router {
	i := slices.IndexFunc(m.routers, func(r *router) bool { return r.item.from.arg(0) == name })
	if i < 0 {
		return nil
	}
	return m.routers[i]
}

// finishGroup writes a group into its members.
func (m *mapper) finishGroup(s *Statement, members []*router) {
	if len(members) == 0 {
		s.mark(Harmless, "keepalived ignores a group without members")
		s.markBlock(Harmless, "of a group without members")
		return
	}
	name := m.unique("group ", s.arg(0))
	counts := len(s.children("sync_group_tracking_weight")) + len(s.children("global_tracking"))
	for _, r := range members {
		r.group = name
		for _, t := range r.weighted {
			if counts == 0 {
				t.overrule(Changed, "keepalived ignores a weight in a member of a sync group without sync_group_tracking_weight, lvx counts it")
			}
		}
	}
	for _, c := range s.Block {
		if c.keyword == nil {
			continue
		}
		for i, r := range members {
			if m.tracked(r, c, "") || i > 0 {
				continue
			}
			r.notified(s, c) // the group changes as one: its first member tells
		}
	}
	s.mark(Mapped, "")
}
