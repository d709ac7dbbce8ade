-- The health of an Organization: whether its members hold their roles where its Tenants live.

local status = obj.status or {}

local function condition(name)
  for _, each in ipairs(status.conditions or {}) do
    if each.type == name then
      return each
    end
  end
  return {}
end

-- -1 is what the API server says of an Organization that the operator has not looked at yet.
if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not looked at this version yet" }
end

local ready = condition("Ready")
if ready.status == "True" then
  return { status = "Healthy", message = ready.message }
end
if condition("Stalled").status == "True" then
  return { status = "Degraded", message = ready.message }
end
if ready.reason == "PlanNotFound" then
  -- The gravest finding names the reason: everything that an Organization gives is in place. Its plans come in the next
  -- sync wave, which Argo CD begins only when this one is healthy: to wait for them here would be to wait for ever.
  return { status = "Healthy", message = ready.message }
end
return { status = "Progressing", message = ready.message or "not judged yet" }
