-- The health of a Tenant, told by its conditions: the same verdict as kstatus, and Suspended where it waits for a person.
-- Of one that is being deleted Argo CD says "Pending deletion" itself.

local status = obj.status or {}

local function condition(name)
  for _, each in ipairs(status.conditions or {}) do
    if each.type == name then
      return each
    end
  end
  return {}
end

local ready = condition("Ready")
local reconciling = condition("Reconciling")
local stalled = condition("Stalled")
-- A tenant that is at rest as desired says what that means here.
local at_rest = condition("TrafficEnabled").message

-- -1 is what the API server says of a Tenant that the operator has not looked at yet.
if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not looked at this version yet" }
end

if stalled.status == "True" then
  if stalled.reason == "Cancelled" then
    -- A cancel is a clean stop: nothing is wrong, it waits for somebody to retry or to decommission it.
    return { status = "Suspended", message = stalled.message }
  end
  return { status = "Degraded", message = stalled.message }
end

if ready.reason == "Degraded" then
  -- It is to serve, and nobody answers.
  return { status = "Degraded", message = ready.message }
end

if reconciling.status == "True" then
  return { status = "Progressing", message = reconciling.message }
end

if ready.status == "True" then
  return { status = "Healthy", message = ready.message }
end

if status.state == "Suspended" then
  return { status = "Suspended", message = at_rest }
end

if status.state == "Decommissioned" then
  -- Nothing is paused and nothing is to be resumed: the record is kept, and is as it was asked to be.
  return { status = "Healthy", message = "decommissioned: " .. (at_rest or "everything is released") }
end

return { status = "Progressing", message = ready.message or "not started yet" }
