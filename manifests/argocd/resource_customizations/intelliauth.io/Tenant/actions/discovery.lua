-- What may be asked of a Tenant now. Admission judges again, and knows more: roles, plan limits, the host.
-- Argo CD has the basic functions, `table`, and of `os` what is required here: no global of that name, no string functions.

local os = require("os") -- time and date

local status = obj.status or {}
local state = status.state or "Pending"
local desired = obj.spec.desiredState or "Active"
local annotations = obj.metadata.annotations or {}

local deleting = obj.metadata.deletionTimestamp ~= nil
-- A second request would take the place of one that the operator has not taken yet.
local asked = annotations["intelliauth.io/action"] ~= nil

-- The time so many seconds from now. RFC 3339 in UTC sorts as text.
local function at(seconds)
  local now = os.date("!*t")
  now.sec = now.sec + seconds
  -- Read and written as local time: the zone, whatever it is, falls out.
  return os.date("%Y-%m-%dT%H:%M:%S", os.time(now))
end

-- Whether no worker has given a sign of life of this run for 30 s. One far ahead of the clock here says nothing.
local function abandoned(run)
  local beat = run.heartbeat or {}
  local last = run.startedAt
  for _, heard in ipairs({ run.resumedAt or last, beat.at or last }) do
    if heard > last then
      last = heard
    end
  end
  return last < at(-30) or last >= at(30)
end

local released = state == "Decommissioned"
local releasing = state == "Decommissioning"
local stopped = state == "Failed" or state == "Pending"
local retryable = state == "Failed" or (state == "Pending" and (status.attempt or 0) > 0)
local resettable = stopped or (state == "Provisioning" and status.run ~= nil and abandoned(status.run))
local never_started = state == "Pending" and (status.attempt or 0) == 0
local suspendable = never_started or state == "Provisioning" or state == "Active" or state == "Suspended"

local function action(name, icon, enabled)
  return { displayName = name, iconClass = "fa fa-fw fa-" .. icon, disabled = deleting or not enabled }
end

local actions = {}
-- One-shot requests.
actions["cancel"] = action("Cancel", "stop", not asked and state == "Provisioning")
actions["retry"] = action("Retry", "redo", not asked and retryable and desired ~= "Decommissioned")
actions["reset"] = action("Reset run history", "eraser", not asked and resettable)
-- Lasting intent. To make a released tenant anew is not to resume it: nothing is carried over, and it is another verb.
actions["suspend"] = action("Suspend", "pause", suspendable and desired ~= "Suspended")
actions["resume"] = action("Resume", "play", desired == "Suspended" and not released and not releasing)
actions["recreate"] = action("Recreate", "sync", released and desired ~= "Active")
actions["decommission"] = action("Decommission", "power-off", desired ~= "Decommissioned")
return actions
